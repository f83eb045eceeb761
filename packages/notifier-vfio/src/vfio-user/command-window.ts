/**
 * Commands under way: sent in the order in which they were asked for, so many at a time that every one has an id of its own, and settled each by its reply.
 */

import type { VfioUserMessage } from "./message-stream.js";
import { packMessage } from "./messages.js";

/** How a command ended: `gone` without a reply, as the connection is over. */
export type Reply =
  | { readonly kind: "done"; readonly payload: DataView }
  | { readonly kind: "error"; readonly errno: number }
  | { readonly kind: "gone" };

interface Asked {
  readonly command: number;
  readonly payload: Uint8Array;
  readonly fds: readonly number[];
  readonly isValid: (payload: DataView) => boolean;
  readonly settle: (reply: Reply) => void;
}

const GONE: Reply = { kind: "gone" };

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
  #over = false;

  /** @param maxInFlight Up to 65,536, as many as there are ids. */
  constructor(maxInFlight: number, send: (message: Uint8Array, fds: readonly number[]) => void) {
    this.#maxInFlight = maxInFlight;
    this.#send = send;
  }

  /** Asks for a command. The promise never rejects. */
  ask(
    command: number,
    payload: Uint8Array,
    fds: readonly number[],
    isValid: (payload: DataView) => boolean,
  ): Promise<Reply> {
    if (this.#over) return Promise.resolve(GONE);
    return new Promise((settle) => {
      this.#waiting.push({ command, payload, fds, isValid, settle });
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
    if (message.errno === undefined && !asked.isValid(message.payload)) {
      return `expected a reply to command ${asked.command} of the shape that the protocol gives it, got another`;
    }
    this.#sent.delete(message.id);
    asked.settle(
      message.errno === undefined
        ? { kind: "done", payload: message.payload }
        : { kind: "error", errno: message.errno },
    );
    this.#flush();
    return undefined;
  }

  /** The connection is over. */
  end(): void {
    if (this.#over) return;
    this.#over = true;
    const left = [...this.#sent.values(), ...this.#waiting.slice(this.#next)];
    this.#sent.clear();
    this.#waiting.length = 0;
    for (const { settle } of left) settle(GONE);
  }

  #flush(): void {
    // Sending may end the connection, which ends this; it must not send out of order.
    if (this.#sending) return;
    this.#sending = true;
    while (!this.#over && this.#sent.size < this.#maxInFlight) {
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
