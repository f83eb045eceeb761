/*
 * Drives the DMA engine at 00:03.0 from user space through VFIO, and reports facts for the host to judge.
 *
 *   vfio-exercise GROUP-FILE DEVICE ROUNDS
 *
 * 1. copies 32 KiB from one half of a buffer to the other, by IOVA;  2. after the unmap the same transfer must be refused;
 * 3. of a read-only mapping, reads pass and writes are refused;  4. the device's MSI reaches an eventfd;
 * 5. ROUNDS times: map elsewhere, transfer, unmap, and the same transfer again, which must be refused.
 */
#include <linux/vfio.h>
#include "system-calls.h"

/* Registers of the engine, as 32-bit words of BAR 0; see src/devices/dma-engine.ts. */
enum { IDENTITY = 0, IOVA_LOW = 1, IOVA_HIGH = 2, LENGTH = 3, LOCAL_OFFSET = 4, COMMAND = 5, STATUS = 6, TRANSFERS = 7 };
enum { TO_DEVICE = 1, FROM_DEVICE = 2, INTERRUPT = 8 };
enum { BUSY = 0, DONE = 1, REFUSED = 2 };
enum { ENGINE_IDENTITY = 0x00444d41 };

enum { HALF = 0x8000, WHOLE = 0x10000, PAGE = 0x1000 };
static const u32 FIRST_IOVA = 0x40000000u;

static volatile u32 *engine;
static int container;

static void require(const char *step, long result) {
  if (result >= 0) return;
  fact(step, (u32)-result);
  fact("failed", 1);
  sys_exit(1);
}

/* Runs one transfer to its end and answers the status. The engine works on its own time: the status is polled. */
static u32 transfer(u32 iova, u32 length, u32 command) {
  engine[IOVA_LOW] = iova;
  engine[IOVA_HIGH] = 0;
  engine[LENGTH] = length;
  engine[LOCAL_OFFSET] = 0;
  engine[COMMAND] = command;
  u32 status = engine[STATUS];
  for (u32 polls = 0; status == BUSY && polls < 100000000u; polls++) status = engine[STATUS];
  return status;
}

static void map(u8 *buffer, u32 iova, u32 flags) {
  struct vfio_iommu_type1_dma_map request;
  memset(&request, 0, sizeof request);
  request.argsz = sizeof request;
  request.flags = flags;
  request.vaddr = (u32)buffer;
  request.iova = iova;
  request.size = WHOLE;
  require("map", sys_ioctl(container, VFIO_IOMMU_MAP_DMA, &request));
}

static u32 unmap(u32 iova) {
  struct vfio_iommu_type1_dma_unmap request;
  memset(&request, 0, sizeof request);
  request.argsz = sizeof request;
  request.iova = iova;
  request.size = WHOLE;
  require("unmap", sys_ioctl(container, VFIO_IOMMU_UNMAP_DMA, &request));
  return (u32)request.size;
}

static struct vfio_region_info region(int device, u32 index) {
  struct vfio_region_info info;
  memset(&info, 0, sizeof info);
  info.argsz = sizeof info;
  info.index = index;
  require("region-info", sys_ioctl(device, VFIO_DEVICE_GET_REGION_INFO, &info));
  return info;
}

/* Opens group, container and device; maps BAR 0; switches bus mastering on. Answers the device file. */
static int open_engine(const char *group_path, const char *name) {
  container = (int)sys_open("/dev/vfio/vfio");
  require("open-container", container);
  int group = (int)sys_open(group_path);
  require("open-group", group);
  require("set-container", sys_ioctl(group, VFIO_GROUP_SET_CONTAINER, &container));
  require("set-iommu", sys_ioctl(container, VFIO_SET_IOMMU, (void *)VFIO_TYPE1v2_IOMMU));
  int device = (int)sys_ioctl(group, VFIO_GROUP_GET_DEVICE_FD, (void *)name);
  require("device", device);
  struct vfio_region_info bar = region(device, VFIO_PCI_BAR0_REGION_INDEX);
  fact("bar-bytes", (u32)bar.size);
  engine = sys_mmap(PAGE, SHARED, device, bar.offset);
  struct vfio_region_info config = region(device, VFIO_PCI_CONFIG_REGION_INDEX);
  unsigned short memory_and_bus_master = 6;
  require("bus-master", sys_pwrite(device, &memory_and_bus_master, 2, config.offset + 4));
  return device;
}

static void check_copy(u8 *buffer) {
  for (u32 i = 0; i < WHOLE; i++) buffer[i] = (u8)(i * 7 + (i >> 8));
  map(buffer, FIRST_IOVA, VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE);
  fact("read-status", transfer(FIRST_IOVA, HALF, TO_DEVICE));
  fact("write-status", transfer(FIRST_IOVA + HALF, HALF, FROM_DEVICE));
  u32 mismatches = 0;
  for (u32 i = 0; i < HALF; i++) mismatches += buffer[HALF + i] != buffer[i];
  fact("copied-bytes", HALF);
  fact("mismatches", mismatches);
  fact("unmapped-bytes", unmap(FIRST_IOVA));
  fact("stale-write-status", transfer(FIRST_IOVA, 16, FROM_DEVICE));
  fact("stale-read-status", transfer(FIRST_IOVA, 16, TO_DEVICE));
}

static void check_read_only(u8 *buffer) {
  map(buffer, FIRST_IOVA, VFIO_DMA_MAP_FLAG_READ);
  fact("read-only-read-status", transfer(FIRST_IOVA, 16, TO_DEVICE));
  fact("read-only-write-status", transfer(FIRST_IOVA, 16, FROM_DEVICE));
  unmap(FIRST_IOVA);
}

static void check_interrupt(int device, u8 *buffer) {
  int event = (int)sys_eventfd();
  require("eventfd", event);
  struct { struct vfio_irq_set head; int file; } trigger;
  memset(&trigger, 0, sizeof trigger);
  trigger.head.argsz = sizeof trigger;
  trigger.head.flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER;
  trigger.head.index = VFIO_PCI_MSI_IRQ_INDEX;
  trigger.head.count = 1;
  trigger.file = event;
  require("set-irqs", sys_ioctl(device, VFIO_DEVICE_SET_IRQS, &trigger));
  map(buffer, FIRST_IOVA, VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE);
  u64 count = 0;
  transfer(FIRST_IOVA, 16, TO_DEVICE | INTERRUPT);
  require("eventfd-read", sys_read(event, &count, sizeof count));
  fact("msi-events", (u32)count);
  unmap(FIRST_IOVA);
}

static void check_rounds(u8 *buffer, u32 rounds) {
  u32 passed = 0, stale_passed = 0;
  for (u32 round = 0; round < rounds; round++) {
    u32 iova = FIRST_IOVA + round * WHOLE;
    map(buffer, iova, VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE);
    passed += transfer(iova, PAGE, FROM_DEVICE) == DONE;
    unmap(iova);
    stale_passed += transfer(iova, PAGE, FROM_DEVICE) == DONE;
  }
  fact("rounds", rounds);
  fact("rounds-passed", passed);
  fact("stale-passed", stale_passed);
}

/* `stack` is what the kernel leaves for a new process: the argument count, then the arguments. */
__attribute__((used)) static void run(char **stack) {
  if ((u32)stack[0] < 4) sys_exit(2);
  int device = open_engine(stack[2], stack[3]);
  fact("identity-ok", engine[IDENTITY] == ENGINE_IDENTITY);
  u8 *buffer = sys_mmap(WHOLE, PRIVATE_ANONYMOUS, -1, 0);
  check_copy(buffer);
  check_read_only(buffer);
  check_interrupt(device, buffer);
  check_rounds(buffer, to_number(stack[4]));
  fact("transfers", engine[TRANSFERS]);
  fact("finished", 1);
  sys_exit(0);
}

__asm__(".globl _start\n_start:\n\tmovl %esp, %eax\n\tandl $-16, %esp\n\tsubl $12, %esp\n\tpushl %eax\n\tcall run\n");
