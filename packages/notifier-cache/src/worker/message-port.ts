/**
 * Ports of Node and of the browser under one roof, and the messages that travel through them. Other messages on the same port are left alone.
 */

/** A `Worker`, a `MessagePort`, Node's `parentPort`, or a worker's global scope in the browser. */
export type WorkerPort = NodePort | WebPort;

/** Node's flavour. */
export interface NodePort {
  postMessage(message: unknown): void;
  on(event: "message", listener: (message: unknown) => void): unknown;
}

/** The browser's flavour. */
export interface WebPort {
  postMessage(message: unknown): void;
  addEventListener(event: "message", listener: (event: { readonly data: unknown }) => void): void;
  start?(): void;
}

/** Worker to host: translate this page. */
export interface MissMessage {
  readonly kind: "miss";
  readonly id: number;
  readonly iovaPfn: number;
  readonly access: number;
}

/** Worker to host: the first `through` invalidations are worked off. */
export interface AckMessage {
  readonly kind: "ack";
  readonly through: number;
}

/** Host to worker: look at the shared words. */
export interface WakeMessage {
  readonly kind: "wake";
}

/** Any of ours. */
export type CacheMessage = MissMessage | AckMessage | WakeMessage;

const TAG = "@iommu-kit/notifier-cache";

/** Sends one of our messages. */
export function post(port: WorkerPort, message: CacheMessage): void {
  port.postMessage({ ...message, tag: TAG });
}

/** One of ours as it came in: the other side may be anything, so whoever uses a field checks it. */
export interface HeardMessage {
  readonly tag: unknown;
  readonly kind?: unknown;
  readonly id?: unknown;
  readonly iovaPfn?: unknown;
  readonly access?: unknown;
  readonly through?: unknown;
}

/** Hears our messages. */
export function listen(port: WorkerPort, heard: (message: HeardMessage) => void): void {
  const take = (message: unknown): void => {
    if (typeof message === "object" && message !== null && "tag" in message && message.tag === TAG) heard(message);
  };
  if ("on" in port) port.on("message", take);
  else {
    port.addEventListener("message", (event) => take(event.data));
    port.start?.();
  }
}
