/**
 * Jobs that bring views and their members in step: after a change, for a newcomer, after somebody has left.
 *
 * Nearly every change concerns one view whose members all see its domain still: that costs a pass over the range and allocates next to nothing.
 */

import type { AddressSpace } from "../address-space.js";
import type { AttachmentRecord } from "./attachment-record.js";
import type { Domain } from "../backend.js";
import type { CompletionGroup } from "../completion.js";
import type { Rest } from "./job-queue.js";
import type { FrameRange } from "../range.js";
import type { Member, View } from "./view.js";
import type { ViewSync } from "./view-sync.js";

type Steps = Generator<void, void, void>;

/** Address spaces that a change concerns, by what is attached to them. */
type Concerned = readonly { readonly attachments: readonly AttachmentRecord[] }[];

/** Makes the jobs of a hub's queue: each brings views and members in step when its turn comes, by the domains as they are then. */
export class ViewJobs {
  readonly #sync: ViewSync;
  readonly #domainOf: (space: AddressSpace) => Domain | undefined;

  /** @param domainOf What an address space sees, as of the last change that concerned it. */
  constructor(sync: ViewSync, domainOf: (space: AddressSpace) => Domain | undefined) {
    this.#sync = sync;
    this.#domainOf = domainOf;
  }

  /** The domain that all address spaces of a member see, or `undefined` while they disagree. */
  agreedDomain(member: Member): Domain | undefined {
    let agreed: Domain | undefined;
    for (const space of member.spaces) {
      const domain = this.#domainOf(space);
      if (agreed !== undefined && domain !== agreed) return undefined;
      agreed = domain;
    }
    return agreed;
  }

  /** A range changed for these address spaces. */
  sync(concerned: Concerned, range: FrameRange, group: CompletionGroup): Rest {
    const view = this.#settledView(concerned);
    if (view === undefined) return this.#syncAll(concerned, range, group);
    const rest = this.#sync.sync(view, range);
    if (rest !== undefined) return this.#finishAfter(rest, () => view.members, group);
    return this.#sync.finish(view.members, group);
  }

  /** A newcomer, unless an invalidation announced before has brought it in already. */
  join(member: Member, group: CompletionGroup): Rest {
    const domain = this.agreedDomain(member);
    if (member.view !== undefined || domain === undefined) return undefined;
    return this.#finishAfter(this.#sync.join(member, domain), () => beside(member), group);
  }

  /** After an address space has left: nobody is left to serve, or those who are left agree again. */
  settle(member: Member, left: AddressSpace, group: CompletionGroup): Rest {
    if (member.spaces.size === 0) return this.#finishAfter(this.#sync.leave(member, [left]), () => [member], group);
    const rest = member.delivery.failed ? undefined : this.join(member, group);
    return rest ?? this.#sync.finish(beside(member), group);
  }

  /** Offers a member again what it refused because it was full. */
  retry(member: Member, group: CompletionGroup): Rest {
    member.delivery.retry();
    return this.#sync.finish([member], group);
  }

  /** The one view that a change concerns, if all its members are well and see its domain still. */
  #settledView(concerned: Concerned): View | undefined {
    let view: View | undefined;
    for (const { attachments } of concerned) {
      for (const { member } of attachments) {
        if (member === undefined) continue;
        view ??= member.view;
        if (member.view === undefined || member.view !== view) return undefined;
      }
    }
    if (view === undefined) return undefined;
    for (const member of view.members)
      if (member.delivery.failed || this.agreedDomain(member) !== view.domain) return undefined;
    return view;
  }

  *#finishAfter(rest: Steps, told: () => Iterable<Member>, group: CompletionGroup): Steps {
    yield* rest;
    yield* this.#sync.finish(told(), group) ?? [];
  }

  *#syncAll(concerned: Concerned, range: FrameRange, group: CompletionGroup): Steps {
    const members = new Set<Member>();
    for (const record of concerned)
      for (const { member } of record.attachments) if (member !== undefined) members.add(member);
    const views = new Set<View>();
    for (const member of members) if (member.view !== undefined) views.add(member.view);
    for (const view of views) {
      // Each pass gets one step further whatever is left: many views must not make one long turn of that.
      if (this.#sync.spent) yield;
      this.#sync.prune(view);
      const whole = yield* this.#sync.rebind(view, (member) => this.agreedDomain(member));
      if (!whole && view.members.size > 0) yield* this.#sync.sync(view, range) ?? [];
      for (const member of view.members) members.add(member);
    }
    for (const member of members) {
      const domain = member.view === undefined && !member.delivery.failed ? this.agreedDomain(member) : undefined;
      if (domain !== undefined) yield* this.#sync.join(member, domain);
    }
    yield* this.#sync.finish(members, group) ?? [];
  }
}

/** The members of a member's view. */
function beside(member: Member): Iterable<Member> {
  return member.view?.members ?? [member];
}
