/**
 * Commands under way: sent in the order in which they were asked for, so many at a time that every one has an id of its own, and settled each by its reply.
 */

import type { IommuError } from "@iommu-kit/iommu-core";
import type { VfioUserMessage } from "./message-stream.js";
import { packMessage } from "./messages.js";

/** Why a command was not carried out: `gone` without a reply, as the connection is over. */
export type Failure =
  | { readonly kind: "error"; readonly errno: number }
  | { readonly kind: "gone"; readonly error: IommuError };

/** How a command ended. */
export type Reply<T> = { readonly kind: "done"; readonly value: T } | Failure;

interface Asked {
  readonly command: number;
  readonly payload: Uint8Array;
  readonly fds: readonly number[];
  /** Settles it by the payload of a reply; `false` for one that makes no sense. */
  readonly take: (payload: DataView) => boolean;
  readonly fail: (failure: Failure) => void;
}

/** The commands of one connection. When it ends, each is settled with that. */
export class CommandWindow {
  readonly #maxInFlight: number;
  readonly #send: (message: Uint8Array, fds: readonly number[]) => void;
  /** By id: sent, not answered. */
  readonly #sent = new Map<number, Asked>();
  /** Not sent, from `#next` on. */
  readonly #waiting: Asked[] = [];
  #next = 0;
  #lastId = 0;
  #sending = false;
  #over: IommuError | undefined;

  /** @param maxInFlight Up to 65,536, as many as there are ids. */
  constructor(maxInFlight: number, send: (message: Uint8Array, fds: readonly number[]) => void) {
    this.#maxInFlight = maxInFlight;
    this.#send = send;
  }

  /**
   * Asks for a command. The promise never rejects.
   * @param read Reads the payload of a reply that does not refuse; `undefined` for one that makes no sense.
   */
  ask<T>(
    command: number,
    payload: Uint8Array,
    fds: readonly number[],
    read: (payload: DataView) => T | undefined,
  ): Promise<Reply<T>> {
    if (this.#over !== undefined) return Promise.resolve({ kind: "gone", error: this.#over });
    return new Promise((settle) => {
      const take = (reply: DataView): boolean => {
        const value = read(reply);
        if (value !== undefined) settle({ kind: "done", value });
        return value !== undefined;
      };
      this.#waiting.push({ command, payload, fds, take, fail: settle });
      this.#flush();
    });
  }

  /** A reply came. A string says what is wrong with it. */
  replied(message: VfioUserMessage): string | undefined {
    const asked = this.#sent.get(message.id);
    if (asked === undefined) return `expected a reply to a command that was sent, got one to id ${message.id}`;
    if (asked.command !== message.command) {
      return `expected a reply to command ${asked.command}, got one to command ${message.command}`;
    }
    if (message.errno !== undefined) asked.fail({ kind: "error", errno: message.errno });
    else if (!asked.take(message.payload))
      return `expected a reply to command ${asked.command} of the shape that the protocol gives it, got another`;
    this.#sent.delete(message.id);
    this.#flush();
    return undefined;
  }

  /** The connection is over. Once. */
  end(error: IommuError): void {
    this.#over = error;
    const left = [...this.#sent.values(), ...this.#waiting.slice(this.#next)];
    this.#sent.clear();
    this.#waiting.length = 0;
    for (const { fail } of left) fail({ kind: "gone", error });
  }

  #flush(): void {
    // Sending may end the connection, which ends this; it must not send out of order.
    if (this.#sending) return;
    this.#sending = true;
    while (this.#over === undefined && this.#sent.size < this.#maxInFlight) {
      const asked = this.#waiting[this.#next];
      if (asked === undefined) break;
      this.#next += 1;
      const id = this.#freeId();
      this.#sent.set(id, asked);
      this.#send(packMessage(id, asked.command, 0, 0, asked.payload), asked.fds);
    }
    if (this.#next === this.#waiting.length || this.#next > 4096) {
      this.#waiting.splice(0, this.#next);
      this.#next = 0;
    }
    this.#sending = false;
  }

  #freeId(): number {
    do this.#lastId = (this.#lastId + 1) % 65_536;
    while (this.#sent.has(this.#lastId));
    return this.#lastId;
  }
}
