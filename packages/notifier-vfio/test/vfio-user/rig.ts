/** A guest with a VT-d unit, a vfio-user server at the other end of a real UNIX socket, and what ties them together. */
import { mkdtempSync, rmSync } from "node:fs";
import { connect, Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type AddressSpace, IommuError } from "@iommu-kit/iommu-core";
import { GuestDriver } from "@iommu-kit/iommu-vtd/testing";
import {
  socketTransport,
  VfioUserClient,
  type VfioUserClientOptions,
  VfioUserDevice,
  type VfioUserDeviceOptions,
  type VfioUserTransport,
} from "@iommu-kit/notifier-vfio/vfio-user";
import { DescriptorPeer } from "./descriptor-peer.js";
import { FakeServer, type FakeServerOptions } from "./fake-server.js";
import { sendWithFds, socketPair } from "./native.js";

const NIC = "00:03.0";

export interface RigOptions {
  readonly server?: FakeServerOptions;
  readonly client?: Omit<VfioUserClientOptions, "transport" | "space">;
  readonly device?: Omit<VfioUserDeviceOptions, "space" | "open">;
  /** Whether file descriptors go with messages. */
  readonly sendsFds?: boolean;
}

/** See the file's header. The guest has one domain, number 1; translation is on. */
export class Rig {
  readonly guest = new GuestDriver({ cachingMode: true });
  readonly space: AddressSpace;
  readonly server: FakeServer;
  readonly device: VfioUserDevice;
  /** Every loss of a connection. */
  readonly losses: IommuError[] = [];
  /** The server's end of the last connection that carries descriptors. */
  peer: DescriptorPeer | undefined;
  readonly #options: RigOptions;
  readonly #folder = mkdtempSync(join(tmpdir(), "vfio-user-"));
  readonly #clients: VfioUserClient[] = [];

  static async start(options: RigOptions = {}): Promise<Rig> {
    const rig = new Rig(options);
    await rig.server.listen(rig.#path);
    return rig;
  }

  private constructor(options: RigOptions) {
    this.#options = options;
    this.server = new FakeServer(options.server);
    this.guest.context(NIC, { did: 1 });
    this.guest.start();
    this.space = this.guest.device(NIC);
    this.device = new VfioUserDevice({
      ...(options.client && { client: options.client }),
      ...options.device,
      space: this.space,
      open: () => this.transport(),
      onLost: (error) => this.losses.push(error),
    });
  }

  get #path(): string {
    return join(this.#folder, "socket");
  }

  /** A connection of bytes, or of bytes and file descriptors. */
  async transport(): Promise<VfioUserTransport> {
    if (this.#options.sendsFds === true) {
      const { transport, peer } = connectWithFds(this.server);
      this.peer = peer;
      return transport;
    }
    const socket = connect(this.#path);
    await new Promise<void>((resolve, reject) => {
      socket.once("connect", resolve);
      socket.once("error", reject);
    });
    return socketTransport(socket);
  }

  /** A client that has negotiated. */
  async client(): Promise<VfioUserClient> {
    const client = await this.rawClient();
    await client.connect();
    return client;
  }

  /** A client that has not. */
  async rawClient(): Promise<VfioUserClient> {
    const client = new VfioUserClient({
      ...this.#options.client,
      transport: await this.transport(),
      space: this.space,
    });
    this.#clients.push(client);
    return client;
  }

  /** Fills a guest frame with a byte. */
  fill(gpaPfn: number, byte: number): void {
    this.guest.memory.write(gpaPfn * 4096, new Uint8Array(4096).fill(byte));
  }

  /** The first bytes of a guest frame. */
  bytesAt(gpaPfn: number, byteLength: number): number[] {
    const bytes = new Uint8Array(byteLength);
    this.guest.memory.read(gpaPfn * 4096, bytes);
    return [...bytes];
  }

  /** Ends everything. Answers what the client did wrong by the server's word. */
  async stop(): Promise<readonly string[]> {
    for (const client of this.#clients) client.close();
    await this.device.close();
    await this.server.close();
    rmSync(this.#folder, { recursive: true });
    return this.server.violations;
  }
}

/** A connection that carries file descriptors, as the client and as the server has it. */
export function connectWithFds(server: FakeServer): {
  readonly transport: VfioUserTransport;
  readonly peer: DescriptorPeer;
} {
  const [ours, theirs] = socketPair();
  const peer = new DescriptorPeer(theirs);
  server.accept(peer);
  const transport = socketTransport(new Socket({ fd: ours }), (message, fds) => sendWithFds(ours, message, fds));
  return { transport, peer };
}

/** Lets the event loop turn until something holds; the test's own time limit is the end of its patience. */
export async function until(holds: () => boolean): Promise<void> {
  while (!holds()) await new Promise((resolve) => setTimeout(resolve, 1));
}

/** What a rejected promise was rejected with, as text. */
export async function failureOf(promise: Promise<unknown>): Promise<string> {
  return promise.then(
    () => "fulfilled",
    (error: unknown) => (error instanceof IommuError ? `${error.code}: ${error.message}` : String(error)),
  );
}
