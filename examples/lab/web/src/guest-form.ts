/** The user as the guest and as the device: reads the form, acts in the playground, shows what is wrong. */

import {
  type Action,
  type Context,
  CONTEXT_TEXTS,
  CONTEXTS,
  type Invalidation,
  INVALIDATION_TEXTS,
  INVALIDATIONS,
} from "../../dist/sessions/action.js";
import type { Playground } from "../../dist/sessions/playground.js";
import type { TableLeaf } from "../../dist/tables/table-tree.js";
import { byId, make, setText } from "./dom.js";

/** What the form asks of the page. */
export interface GuestFormHost {
  readonly playground: Playground | undefined;
  acted(): void;
}

/** See the file's header. */
export class GuestForm {
  readonly #host: GuestFormHost;
  readonly #section = byId("guest", HTMLElement);
  readonly #form = byId("pages", HTMLFormElement);
  readonly #problem = byId("problem", HTMLParagraphElement);
  readonly #context = byId("context", HTMLSelectElement);

  constructor(host: GuestFormHost) {
    this.#host = host;
    byId("invalidations", HTMLSpanElement).append(
      ...INVALIDATIONS.map((what) =>
        make("button", { type: "button", "data-action": "invalidate", "data-what": what }, INVALIDATION_TEXTS[what]),
      ),
    );
    this.#context.append(...CONTEXTS.map((to) => make("option", { value: to }, CONTEXT_TEXTS[to])));
    this.#form.addEventListener("submit", (event) => event.preventDefault());
    this.#section.addEventListener("click", (event) => {
      const button = (event.target as Element).closest<HTMLButtonElement>("button[data-action]");
      if (button !== null) this.#act(this.#actionOf(button.dataset));
    });
  }

  /** Takes an entry over into the form. */
  take({ iovaPfn, pageCount, gpaPfn, access }: TableLeaf): void {
    const isLarge = pageCount % 512 === 0;
    this.#set("iova", iovaPfn.toString(16));
    this.#set("target", gpaPfn.toString(16));
    this.#set("count", String(Math.min(512, pageCount)));
    this.#set("access", String(access));
    this.#set("leaf", isLarge ? "512" : "1");
    this.#field("iova").focus();
  }

  /** Shows what is on: hidden without a playground. */
  draw(): void {
    const { playground } = this.#host;
    this.#section.hidden = playground === undefined;
    if (playground === undefined) return;
    const { device, translates } = playground.machines.ours;
    for (const button of this.#section.querySelectorAll<HTMLButtonElement>("button[aria-pressed]")) {
      const { kind } = button.dataset;
      const isOn = kind === "map" || kind === "unmap" ? device.isAttached(kind) : translates;
      button.setAttribute("aria-pressed", String(isOn));
      if (kind === undefined) button.textContent = translates ? "Translation is on" : "Translation is off";
    }
  }

  #act(action: Action): void {
    const { playground } = this.#host;
    if (playground === undefined) return;
    try {
      playground.perform(action);
      setText(this.#problem, "");
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      setText(this.#problem, error.message);
      return;
    }
    this.#host.acted();
  }

  #actionOf(data: DOMStringMap): Action {
    const iovaPfn = hexNumber(this.#field("iova").value);
    const pageCount = Number(this.#field("count").value);
    switch (data["action"]) {
      case "map":
        return this.#mapping(iovaPfn, pageCount);
      case "unmap":
        return { do: "unmap", iovaPfn, pageCount };
      case "split":
        return { do: "split", iovaPfn };
      case "invalidate":
        return { do: "invalidate", what: data["what"] as Invalidation, iovaPfn };
      case "context":
        return { do: "context", to: this.#context.value as Context };
      case "translation":
        return { do: "translation", on: this.#host.playground?.machines.ours.translates !== true };
      case "notifier":
        return this.#toggle(data["kind"] === "map" ? "map" : "unmap");
      case "dma":
        return { do: "dma", iovaPfn, pageCount, access: data["access"] === "2" ? 2 : 1 };
      default:
        return { do: "re-enable" };
    }
  }

  #mapping(iovaPfn: number, pageCount: number): Action {
    const gpaPfn = hexNumber(this.#field("target").value);
    const access = Number(this.#field("access").value) as 1 | 2 | 3;
    const leafPages = this.#field("leaf").value === "512" ? 512 : 1;
    return { do: "map", iovaPfn, gpaPfn, pageCount: leafPages === 512 ? 512 : pageCount, access, leafPages };
  }

  #toggle(kind: "map" | "unmap"): Action {
    const isOn = this.#host.playground?.machines.ours.device.isAttached(kind) === true;
    return { do: isOn ? "detach" : "attach", kind };
  }

  #field(name: string): HTMLInputElement | HTMLSelectElement {
    return this.#form.elements.namedItem(name) as HTMLInputElement | HTMLSelectElement;
  }

  #set(name: string, value: string): void {
    this.#field(name).value = value;
  }
}

function hexNumber(text: string): number {
  const digits = text.trim().replace(/^0x/i, "");
  return /^[0-9a-f]{1,13}$/i.test(digits) ? Number.parseInt(digits, 16) : Number.NaN;
}
