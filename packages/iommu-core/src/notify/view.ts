/**
 * A domain view: the announced state that address spaces with the same domain share (design D5). One tree, one scan, however many devices.
 */

import type { AddressSpace } from "../address-space.js";
import type { Domain } from "../backend.js";
import { IovaTree } from "../diff/iova-tree.js";
import type { MapDelivery } from "./map-delivery.js";

/** A MAP notifier with the address spaces that it serves. */
export interface Member {
  readonly delivery: MapDelivery;
  readonly spaces: Set<AddressSpace>;
  /** Where it is announced; `undefined` while its address spaces disagree. */
  view: View | undefined;
}

/** The announced state of one domain, and who follows it. It lives while a member does. */
export class View {
  /** What the tree is brought to. Reassigned when every member moves together: the tree stays, only differences are told. */
  domain: Domain;
  readonly tree = new IovaTree();
  /** Who receives differences. A new list when that changes. */
  deliveries: readonly MapDelivery[] = [];
  readonly #members = new Set<Member>();
  /** Set when the guest's tables describe more than the budget allows: nothing is announced until the next pass over the whole view fits. */
  overBudget = false;
  /** Which budget it met last. */
  spent: { readonly budget: "mappings" | "tables"; readonly limit: number } | undefined;

  constructor(domain: Domain) {
    this.domain = domain;
  }

  get members(): ReadonlySet<Member> {
    return this.#members;
  }

  add(member: Member): void {
    this.#members.add(member);
    this.deliveries = [...this.deliveries, member.delivery];
  }

  remove(member: Member): void {
    this.#members.delete(member);
    this.deliveries = this.deliveries.filter((delivery) => delivery !== member.delivery);
  }

  /** The address spaces served through it, each once. */
  get spaces(): Set<AddressSpace> {
    const spaces = new Set<AddressSpace>();
    for (const member of this.#members) for (const space of member.spaces) spaces.add(space);
    return spaces;
  }
}
