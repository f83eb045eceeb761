/**
 * The few system calls that Node does not offer: shared memory, and file descriptors sent over UNIX sockets (SCM_RIGHTS). Linux on 64-bit, through koffi.
 */
import { errno, load, struct, view } from "koffi";

const MAP_SHARED = 1;
const PROT_READ_WRITE = 3;
const AF_UNIX = 1;
const SOCK_STREAM = 1;
const EFD_NONBLOCK = 0x800;
const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;
const EAGAIN = 11;
const SOL_SOCKET = 1;
const SCM_RIGHTS = 1;

interface LibC {
  memfd_create(name: string, flags: number): number;
  ftruncate(fd: number, byteLength: number): number;
  mmap(at: null, byteLength: number, protection: number, flags: number, fd: number, offset: number): unknown;
  socketpair(domain: number, type: number, protocol: number, out: number[]): number;
  socket(domain: number, type: number, protocol: number): number;
  connect(fd: number, address: Uint8Array, byteLength: number): number;
  eventfd(initial: number, flags: number): number;
  sendmsg(fd: number, message: object, flags: number): number | bigint;
  close(fd: number): number;
}

let loaded: LibC | undefined;

function libc(): LibC {
  if (loaded !== undefined) return loaded;
  const library = load("libc.so.6");
  struct("iovec", { base: "void*", len: "size_t" });
  struct("msghdr", {
    name: "void*",
    namelen: "uint32",
    pad: "uint32",
    iov: "iovec*",
    iovlen: "size_t",
    control: "void*",
    controllen: "size_t",
    flags: "int",
  });
  const declarations: Record<keyof LibC, string> = {
    memfd_create: "int memfd_create(const char*, uint)",
    ftruncate: "int ftruncate(int, int64_t)",
    mmap: "void* mmap(void*, size_t, int, int, int, int64_t)",
    socketpair: "int socketpair(int, int, int, _Out_ int*)",
    socket: "int socket(int, int, int)",
    connect: "int connect(int, void*, uint)",
    eventfd: "int eventfd(uint, int)",
    sendmsg: "int64 sendmsg(int, msghdr*, int)",
    close: "int close(int)",
  };
  const entries = Object.entries(declarations).map(([name, declaration]) => [name, library.func(declaration)]);
  loaded = Object.fromEntries(entries) as LibC;
  return loaded;
}

/** Memory in a file that can be handed to another process, and as bytes here. */
export interface SharedMemory {
  readonly fd: number;
  readonly bytes: Uint8Array;
}

/** Makes shared memory, zeroed. */
export function createMemory(byteLength: number, name: string): SharedMemory {
  const fd = checked(libc().memfd_create(name, 0), "memfd_create");
  checked(libc().ftruncate(fd, byteLength), "ftruncate");
  const pointer = libc().mmap(null, byteLength, PROT_READ_WRITE, MAP_SHARED, fd, 0);
  return { fd, bytes: new Uint8Array(view(pointer, byteLength)) };
}

/** Two connected stream sockets. */
export function socketPair(): [number, number] {
  const fds = [0, 0];
  checked(libc().socketpair(AF_UNIX, SOCK_STREAM, 0, fds), "socketpair");
  return [fds[0] ?? -1, fds[1] ?? -1];
}

/** A stream socket connected to a server's path, or `undefined` while nobody listens there. */
export function connectUnix(path: string): number | undefined {
  const fd = checked(libc().socket(AF_UNIX, SOCK_STREAM, 0), "socket");
  const address = new Uint8Array(110);
  new DataView(address.buffer).setUint16(0, AF_UNIX, true);
  address.set(new TextEncoder().encode(path).subarray(0, 107), 2);
  if (libc().connect(fd, address, address.length) === 0) return fd;
  closeFd(fd);
  return undefined;
}

/** A counter that another process can wait for. */
export function eventFd(): number {
  return checked(libc().eventfd(0, EFD_NONBLOCK), "eventfd");
}

/** Sends bytes with file descriptors. Answers how many bytes went out, 0 where the socket is full. @throws {Error} for any other failure. */
export function sendWithFds(socketFd: number, message: Uint8Array, fds: readonly number[]): number {
  const control = new Uint8Array(16 + Math.ceil((fds.length * 4) / 8) * 8);
  const words = new DataView(control.buffer);
  words.setBigUint64(0, BigInt(16 + fds.length * 4), true);
  words.setInt32(8, SOL_SOCKET, true);
  words.setInt32(12, SCM_RIGHTS, true);
  for (const [index, fd] of fds.entries()) words.setInt32(16 + index * 4, fd, true);
  const header = {
    name: null,
    namelen: 0,
    pad: 0,
    iov: [{ base: message, len: message.length }],
    iovlen: 1,
    control: fds.length === 0 ? null : control,
    controllen: fds.length === 0 ? 0 : control.length,
    flags: 0,
  };
  const sent = Number(libc().sendmsg(socketFd, header, MSG_DONTWAIT | MSG_NOSIGNAL));
  if (sent >= 0) return sent;
  const error = errno();
  if (error === EAGAIN) return 0;
  throw new Error(`sendmsg failed with error ${error}`);
}

/** Closes a descriptor of this module. */
export function closeFd(fd: number): void {
  libc().close(fd);
}

function checked(result: number, call: string): number {
  if (result < 0) throw new Error(`${call} failed with error ${errno()}`);
  return result;
}
