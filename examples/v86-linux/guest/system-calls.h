/*
 * The few system calls and the little printing that vfio-exercise.c needs, for 32-bit x86 without a C library:
 * the program then needs nothing but gcc and the kernel's user-space headers (Debian: linux-libc-dev).
 */
#ifndef SYSTEM_CALLS_H
#define SYSTEM_CALLS_H

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;

enum { SYS_EXIT = 1, SYS_READ = 3, SYS_WRITE = 4, SYS_OPEN = 5, SYS_IOCTL = 54, SYS_PWRITE64 = 181, SYS_MMAP2 = 192, SYS_EVENTFD2 = 328 };
enum { OPEN_READ_WRITE = 2, PROTECTION_READ_WRITE = 3, SHARED = 1, PRIVATE_ANONYMOUS = 0x22 };

/* Six arguments, the sixth in ebp: saved by hand, because gcc may use it as the frame pointer. */
static long system_call(long number, long a, long b, long c, long d, long e, long f) {
  long result;
  long frame[2] = { f, number };
  __asm__ volatile("pushl %%ebp\n\tmovl (%%eax), %%ebp\n\tmovl 4(%%eax), %%eax\n\tint $0x80\n\tpopl %%ebp"
                   : "=a"(result)
                   : "a"(frame), "b"(a), "c"(b), "d"(c), "S"(d), "D"(e)
                   : "memory");
  return result;
}

static long sys_write(int file, const void *bytes, u32 length) { return system_call(SYS_WRITE, file, (long)bytes, length, 0, 0, 0); }
static long sys_read(int file, void *bytes, u32 length) { return system_call(SYS_READ, file, (long)bytes, length, 0, 0, 0); }
static long sys_open(const char *path) { return system_call(SYS_OPEN, (long)path, OPEN_READ_WRITE, 0, 0, 0, 0); }
static long sys_ioctl(int file, u32 request, void *argument) { return system_call(SYS_IOCTL, file, request, (long)argument, 0, 0, 0); }
static long sys_eventfd(void) { return system_call(SYS_EVENTFD2, 0, 0, 0, 0, 0, 0); }
static long sys_pwrite(int file, const void *bytes, u32 length, u64 offset) {
  return system_call(SYS_PWRITE64, file, (long)bytes, length, (long)(u32)offset, (long)(u32)(offset >> 32), 0);
}
static void *sys_mmap(u32 length, int flags, int file, u64 offset) {
  return (void *)system_call(SYS_MMAP2, 0, length, PROTECTION_READ_WRITE, flags, file, (long)(offset >> 12));
}
static void sys_exit(int status) {
  system_call(SYS_EXIT, status, 0, 0, 0, 0, 0);
  for (;;) { }
}

static u32 text_length(const char *text) {
  u32 length = 0;
  while (text[length]) length++;
  return length;
}

/* One line for the host: "@@ fact vfio NAME VALUE", the value in decimal. */
static void fact(const char *name, u32 value) {
  char line[160];
  char digits[10];
  u32 at = 0, count = 0;
  const char *prefix = "@@ fact vfio ";
  for (u32 i = 0; prefix[i]; i++) line[at++] = prefix[i];
  for (u32 i = 0; i < text_length(name) && at < 120; i++) line[at++] = name[i];
  line[at++] = ' ';
  do digits[count++] = (char)('0' + value % 10); while ((value /= 10) != 0);
  while (count > 0) line[at++] = digits[--count];
  line[at++] = '\n';
  sys_write(1, line, at);
}

static u32 to_number(const char *text) {
  u32 value = 0;
  while (*text >= '0' && *text <= '9') value = value * 10 + (u32)(*text++ - '0');
  return value;
}

/* gcc may call these two even in a freestanding program. */
void *memset(void *target, int value, u32 length) {
  u8 *bytes = target;
  for (u32 i = 0; i < length; i++) bytes[i] = (u8)value;
  return target;
}
void *memcpy(void *target, const void *source, u32 length) {
  u8 *to = target;
  const u8 *from = source;
  for (u32 i = 0; i < length; i++) to[i] = from[i];
  return target;
}

#endif
