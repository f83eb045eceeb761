/**
 * System calls that Node does not offer, through koffi: memory in a file, a pair of sockets, file descriptors over them (SCM_RIGHTS). Linux on 64-bit.
 */
import { errno, load, pointer, struct, view } from "koffi";

const MAP_SHARED = 1;
const PROT_READ = 1;
const PROT_WRITE = 2;
const AF_UNIX = 1;
const SOCK_STREAM = 1;
const SOCK_NONBLOCK = 0x800;
const EFD_NONBLOCK = 0x800;
const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;
const MSG_CMSG_CLOEXEC = 0x4000_0000;
const SOL_SOCKET = 1;
const SCM_RIGHTS = 1;
const EAGAIN = 11;
/** `struct cmsghdr`: length, level, type. */
const CONTROL_HEADER_BYTES = 16;

const libc = load("libc.so.6");
const iovec = struct({ base: "void*", len: "size_t" });
const messageHeader = struct({
  name: "void*",
  nameBytes: "uint32",
  iov: pointer(iovec),
  iovCount: "size_t",
  control: "void*",
  controlBytes: "size_t",
  flags: "int",
});
const memfdCreate = libc.func("int memfd_create(const char*, uint)");
const ftruncate = libc.func("int ftruncate(int, int64_t)");
const mmap = libc.func("void* mmap(void*, size_t, int, int, int, int64_t)");
const socketpair = libc.func("int socketpair(int, int, int, _Out_ int*)");
const eventfd = libc.func("int eventfd(uint, int)");
const sendmsg = libc.func("sendmsg", "int64", ["int", pointer(messageHeader), "int"]);
const recvmsg = libc.func("recvmsg", "int64", ["int", pointer(messageHeader), "int"]);

/** A file of zeros in memory. */
export function createFile(byteLength: number): number {
  const fd = checked("memfd_create", memfdCreate("vfio-user-test", 0) as number);
  checked("ftruncate", ftruncate(fd, byteLength) as number);
  return fd;
}

/** A part of a file as bytes, shared with whoever else maps it. */
export function mapFile(fd: number, offsetBytes: number, byteLength: number): Uint8Array {
  const address: unknown = mmap(null, byteLength, PROT_READ | PROT_WRITE, MAP_SHARED, fd, offsetBytes);
  return new Uint8Array(view(address, byteLength));
}

/** A counter that another process can add to. */
export function eventFd(): number {
  return checked("eventfd", eventfd(0, EFD_NONBLOCK) as number);
}

/** Two connected stream sockets that do not block. */
export function socketPair(): readonly [number, number] {
  const fds = [-1, -1];
  checked("socketpair", socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds) as number);
  return [fds[0] ?? -1, fds[1] ?? -1];
}

/** Sends bytes with descriptors. Answers how many bytes went out, 0 where the socket is full. */
export function sendWithFds(socketFd: number, bytes: Uint8Array, fds: readonly number[]): number {
  const control = new Uint8Array(CONTROL_HEADER_BYTES + Math.ceil(fds.length / 2) * 8);
  const words = new DataView(control.buffer);
  words.setBigUint64(0, BigInt(CONTROL_HEADER_BYTES + fds.length * 4), true);
  words.setInt32(8, SOL_SOCKET, true);
  words.setInt32(12, SCM_RIGHTS, true);
  for (const [index, fd] of fds.entries()) words.setInt32(CONTROL_HEADER_BYTES + index * 4, fd, true);
  return transfer("sendmsg", sendmsg, socketFd, headerOf(bytes, control), MSG_DONTWAIT | MSG_NOSIGNAL) ?? 0;
}

/** What came in: no bytes at the end of the stream. */
export interface Received {
  readonly bytes: Uint8Array;
  readonly fds: readonly number[];
}

/** Receives at most `mostBytes`, with the descriptors that came along: ours from now on. `undefined`: nothing there yet. */
export function receive(socketFd: number, mostBytes: number): Received | undefined {
  const bytes = new Uint8Array(mostBytes);
  const control = new Uint8Array(CONTROL_HEADER_BYTES + 64 * 4);
  const count = transfer("recvmsg", recvmsg, socketFd, headerOf(bytes, control), MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (count === undefined) return undefined;
  // The kernel leaves the buffer alone where no descriptors came: a length of 0.
  const words = new DataView(control.buffer);
  const fds: number[] = [];
  for (let at = CONTROL_HEADER_BYTES; at < Number(words.getBigUint64(0, true)); at += 4)
    fds.push(words.getInt32(at, true));
  return { bytes: bytes.subarray(0, count), fds };
}

function headerOf(bytes: Uint8Array, control: Uint8Array): object {
  return {
    name: null,
    nameBytes: 0,
    iov: [{ base: bytes, len: bytes.length }],
    iovCount: 1,
    control,
    controlBytes: control.length,
    flags: 0,
  };
}

/** `undefined`: the call would block. */
function transfer(
  call: string,
  run: (fd: number, header: object, flags: number) => unknown,
  fd: number,
  header: object,
  flags: number,
): number | undefined {
  const count = Number(run(fd, header, flags));
  if (count >= 0) return count;
  const number = errno();
  if (number === EAGAIN) return undefined;
  throw new Error(`${call} failed with error ${number}`);
}

function checked(call: string, result: number): number {
  if (result < 0) throw new Error(`${call} failed with error ${errno()}`);
  return result;
}
