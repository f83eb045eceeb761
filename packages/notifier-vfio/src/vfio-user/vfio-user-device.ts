/**
 * A device that a vfio-user server plays, on an address space: connection, container and notifier together, and all of it anew after the connection was lost.
 *
 * A new connection knows nothing of the old one. It gets an attachment of its own, and the guest's present state by replay.
 */

import { type AddressSpace, type Attachment, type Completion, IommuError } from "@iommu-kit/iommu-core";
import type { VfioNotifierOptions } from "../options.js";
import { VfioNotifier } from "../vfio-notifier.js";
import { VfioUserClient, type VfioUserClientOptions } from "./client.js";
import type { VfioUserTransport } from "./transport.js";
import { VfioUserContainer, type VfioUserContainerOptions } from "./vfio-user-container.js";

/** What such a device needs. */
export interface VfioUserDeviceOptions extends VfioUserContainerOptions {
  /** What the device sees. */
  readonly space: AddressSpace;
  /** Opens a connection; called by every `connect`. */
  readonly open: () => Promise<VfioUserTransport>;
  /** Limits of the protocol. */
  readonly client?: Pick<VfioUserClientOptions, "maxDataTransferBytes" | "maxInFlight" | "maxUnreadBytes">;
  /** How its mappings are cut into regions. */
  readonly notifier?: VfioNotifierOptions;
  /**
   * Called when a connection that was in use is lost; `connect` makes another. Once more, with `notifier-failed`, if its notifier could not be detached afterwards.
   */
  readonly onLost?: (error: IommuError) => void;
}

/** One connection and what hangs on it. */
export interface VfioUserConnection {
  /** The protocol. */
  readonly client: VfioUserClient;
  /** The server's DMA regions. */
  readonly container: VfioUserContainer;
  /** What keeps the container in step. */
  readonly notifier: VfioNotifier;
  /** The notifier on the address space. */
  readonly attachment: Attachment;
}

/** A connection in the making. */
interface Attempt {
  closed: boolean;
  client: VfioUserClient | undefined;
}

/** A device in another process that may come and go: `connect` makes the connection, attaches it and replays; after `onLost` call it again. At most one connection at a time. */
export class VfioUserDevice {
  readonly #options: VfioUserDeviceOptions;
  #connection: VfioUserConnection | undefined;
  #attempt: Attempt | undefined;
  /** The end of the connection before. */
  #ending: Completion;

  constructor(options: VfioUserDeviceOptions) {
    this.#options = options;
  }

  /** What is in use, or `undefined` while nothing is. */
  get connection(): VfioUserConnection | undefined {
    return this.#connection;
  }

  /**
   * Connects, or connects again after a loss. Done when the server has everything that the guest has mapped.
   * @throws {IommuError} `already-attached` while a connection is in use or being made; `destroyed` if it is closed meanwhile; as `VfioUserClient.connect` and `AddressSpace.attach`; what `open` throws.
   */
  async connect(): Promise<VfioUserConnection> {
    if (this.#connection !== undefined || this.#attempt !== undefined) {
      throw new IommuError(
        "already-attached",
        `${this.#options.space.label}: expected no connection, got a second one`,
        {
          hint: "wait for onLost, or close the device first",
        },
      );
    }
    const attempt: Attempt = { closed: false, client: undefined };
    this.#attempt = attempt;
    try {
      await this.#ending;
      return await this.#attach(await this.#options.open(), attempt);
    } finally {
      this.#attempt = undefined;
    }
  }

  /**
   * Unmaps everything, detaches, and ends the connection. One that is being made ends as well: its `connect` throws `destroyed`.
   * @throws What kept the notifier from being detached; the connection has ended all the same.
   */
  async close(): Promise<void> {
    const connection = this.#connection;
    const attempt = this.#attempt;
    this.#connection = undefined;
    if (attempt !== undefined) attempt.closed = true;
    try {
      await connection?.notifier.detach();
    } finally {
      connection?.client.close();
      attempt?.client?.close();
      await this.#ending;
    }
  }

  async #attach(transport: VfioUserTransport, attempt: Attempt): Promise<VfioUserConnection> {
    const { space, memory, notifier: notifierOptions } = this.#options;
    const client = new VfioUserClient({ ...this.#options.client, transport, space });
    attempt.client = client;
    try {
      // It was closed while the connection was opened.
      if (attempt.closed) client.close();
      await client.connect();
      const container = new VfioUserContainer(client, memory === undefined ? {} : { memory });
      const notifier = new VfioNotifier(container, { name: "vfio-user", ...notifierOptions });
      const connection = { client, container, notifier, attachment: notifier.attachTo(space) };
      this.#connection = connection;
      if (client.closed === undefined) client.onceClosed((error) => this.#lost(connection, error));
      else this.#lost(connection, client.closed);
      await connection.attachment.ready;
      if (client.closed !== undefined) throw client.closed;
      return connection;
    } catch (error) {
      client.close();
      throw error;
    }
  }

  /** Called from anywhere, also from within a callback of the notifier: the rest follows from the event loop. */
  #lost(connection: VfioUserConnection, error: IommuError): void {
    if (this.#connection !== connection) return;
    this.#connection = undefined;
    // What goes wrong at the end of this connection is told, and does not stand in the way of the next.
    this.#ending = Promise.resolve()
      .then(() => connection.notifier.detach())
      .catch((cause: unknown) => this.#options.onLost?.(notDetached(this.#options.space, cause)));
    this.#options.onLost?.(error);
  }
}

function notDetached(space: AddressSpace, cause: unknown): IommuError {
  const what = cause instanceof Error ? cause.message : String(cause);
  return new IommuError("notifier-failed", `${space.label}: expected the lost connection to be detached, got ${what}`, {
    hint: "the next connection is not affected; detach outside of callbacks",
    cause,
  });
}
