/**
 * Brings domain views to what the guest's tables say, and members to their views: sync, replay, move, park (design section 3, D5).
 *
 * Every path is the same pass over a range (`Transition`) with another pair of sides, so no path can unmap a page that stays mapped:
 * sync: tree -> tables; replay to a newcomer: nothing -> tree; move: old tree -> new tree; detach: tree -> nothing.
 */

import { Access } from "../access.js";
import type { AddressSpace } from "../address-space.js";
import type { Domain } from "../backend.js";
import type { CompletionGroup } from "../completion.js";
import type { IommuEvents, Observers } from "../events.js";
import { IovaTree } from "../diff/iova-tree.js";
import type { JobQueue, Rest, Slice } from "./job-queue.js";
import type { Limits } from "../limits.js";
import { ALL_FRAMES, type FrameRange, intersect } from "../range.js";
import { scanTree } from "../diff/scan-tree.js";
import { type Scanned, Transition, type TransitionPlan } from "../diff/transition.js";
import { type Member, View } from "./view.js";

type Steps<T> = Generator<void, T, void>;

/** Maps nothing. */
const NOTHING: Scanned = { scan: () => undefined };
const NO_STEPS: Iterable<void> = [];

/** The views of one unit. */
export class ViewSync {
  readonly #limits: Limits;
  readonly #observers: Observers;
  readonly #slice: Slice;
  /** Jobs come one after the other, and so do their passes. */
  readonly #pass: Transition;
  readonly #views = new Map<Domain, View>();
  /** What `bypass` domains map. */
  readonly #identity: Scanned = {
    scan: (range, sink) => {
      for (const region of this.regions) {
        const part = intersect(region, range);
        if (part.pageCount > 0 && !sink.run(part.firstPfn, part.pageCount, part.firstPfn, Access.readWrite)) return;
      }
    },
  };
  /** What `bypass` domains map onto itself. Ascending and disjoint. */
  regions: readonly FrameRange[];

  constructor(queue: JobQueue, limits: Limits, observers: Observers, regions: readonly FrameRange[]) {
    this.#slice = queue.slice;
    this.#pass = new Transition(queue.slice);
    this.#limits = limits;
    this.#observers = observers;
    this.regions = regions;
  }

  /** Views that have members, for inspection. */
  get views(): Iterable<View> {
    return this.#views.values();
  }

  /** Whether the present slice is used up. */
  get spent(): boolean {
    return this.#slice.entriesLeft <= 0 || this.#slice.mappingsLeft <= 0;
  }

  /** Brings a view to its domain's tables over a range, at once as far as the slice goes. */
  sync(view: View, range: FrameRange): Rest {
    const wanted = view.overBudget ? ALL_FRAMES : range;
    view.overBudget = false;
    this.#pass.start(this.#planFor(view, wanted, this.#sourceOf(view.domain)));
    if (!this.#syncStep(view)) return this.#syncRest(view);
    return view.overBudget ? this.#close(view) : undefined;
  }

  /** Announces to a newcomer, alone, what the view of `domain` says; others hear only what had been pending. */
  *join(member: Member, domain: Domain): Steps<void> {
    const view = this.#views.get(domain);
    member.view = view ?? this.#create(domain);
    if (view !== undefined) {
      yield* this.sync(view, ALL_FRAMES) ?? NO_STEPS;
      const served = view.spaces;
      const news = [...member.spaces].filter((space) => !served.has(space));
      this.#reportBudget(view, news);
      yield* this.#between(new IovaTree(), view.tree, [member], news);
    }
    member.view.add(member);
    if (view === undefined) yield* this.sync(member.view, ALL_FRAMES) ?? NO_STEPS;
  }

  /** Unmaps everything that a member holds, and takes it out of its view. `spaces` are those that it served. */
  *leave(member: Member, spaces: Iterable<AddressSpace> = member.spaces): Steps<void> {
    const view = member.view;
    if (view === undefined) return;
    view.remove(member);
    member.view = undefined;
    const served = view.spaces;
    const left = [...spaces].filter((space) => !served.has(space));
    yield* this.#between(view.tree, new IovaTree(), [member], left);
    this.#dropIfEmpty(view);
  }

  /** Brings members to the domain that their address spaces see now. `wanted` answers `undefined` while these disagree. */
  *rebind(view: View, wanted: (member: Member) => Domain | undefined): Steps<boolean> {
    const targets = new Map<Domain | undefined, Member[]>();
    for (const member of view.members) {
      const domain = wanted(member);
      targets.set(domain, [...(targets.get(domain) ?? []), member]);
    }
    const [only] = targets.keys();
    if (targets.size === 1 && only === view.domain) return false;
    if (targets.size === 1 && only !== undefined && !this.#views.has(only)) {
      this.#rekey(view, only);
      yield* this.sync(view, ALL_FRAMES) ?? NO_STEPS;
      return true;
    }
    for (const [domain, members] of targets) {
      if (domain === undefined) for (const member of members) yield* this.leave(member);
      else if (domain !== view.domain) yield* this.#move(view, domain, members);
    }
    this.#dropIfEmpty(view);
    return false;
  }

  /** Takes failed members out: a view without anybody is not kept in step. */
  prune(view: View): void {
    for (const member of view.members) {
      if (!member.delivery.failed) continue;
      view.remove(member);
      member.view = undefined;
    }
    this.#dropIfEmpty(view);
  }

  /** Ends the events of one invalidation for these members, at once as far as the slice goes. */
  finish(members: Iterable<Member>, group: CompletionGroup): Rest {
    return this.#finishStep(members, group) ? undefined : this.#finishRest(members, group);
  }

  *#finishRest(members: Iterable<Member>, group: CompletionGroup): Steps<void> {
    do yield;
    while (!this.#finishStep(members, group));
  }

  #finishStep(members: Iterable<Member>, group: CompletionGroup): boolean {
    for (const { delivery, view } of members) if (!delivery.finish(group, view?.tree, this.#slice)) return false;
    return true;
  }

  *#move(from: View, domain: Domain, members: readonly Member[]): Steps<void> {
    let to = this.#views.get(domain);
    to ??= this.#create(domain);
    yield* this.sync(to, ALL_FRAMES) ?? NO_STEPS;
    const spaces = new Set(members.flatMap((member) => [...member.spaces]));
    const served = to.spaces;
    this.#reportBudget(
      to,
      [...spaces].filter((space) => !served.has(space)),
    );
    yield* this.#between(from.tree, to.tree, members, spaces);
    for (const member of members) {
      from.remove(member);
      to.add(member);
      member.view = to;
    }
  }

  /** Tells members the difference between two trees; `spaces` are those whose announced state this is. */
  *#between(
    before: IovaTree,
    after: IovaTree,
    members: readonly Member[],
    spaces: Iterable<AddressSpace>,
  ): Steps<void> {
    const deliveries = members.map((member) => member.delivery);
    const observer = this.#observerOf(spaces);
    const pass = this.#pass;
    pass.start({
      range: ALL_FRAMES,
      before,
      after,
      deliveries,
      holes: [],
      observer,
      source: { scan: (range, sink) => scanTree(after, range, sink) },
      isTooMuch: undefined,
    });
    while (!pass.step()) yield;
  }

  /** A slice of a view's sync. `true`: it is done, or has failed. */
  #syncStep(view: View): boolean {
    try {
      const done = this.#pass.step();
      return this.#spends(view) || done;
    } catch (error) {
      // The memory port or the backend threw: what the tables say is not known, so nothing is mapped until the next invalidation. The host hears of it.
      view.overBudget = true;
      view.spent = undefined;
      this.#observers.report(error);
      return true;
    }
  }

  *#syncRest(view: View): Steps<void> {
    do yield;
    while (!this.#syncStep(view));
    if (view.overBudget) yield* this.#close(view);
  }

  /** Takes back everything that a view has announced. */
  *#close(view: View): Steps<void> {
    this.#pass.start(this.#planFor(view, ALL_FRAMES, NOTHING));
    while (!this.#pass.step()) yield;
  }

  #planFor(view: View, range: FrameRange, source: Scanned): TransitionPlan {
    const { tree, deliveries, domain } = view;
    return {
      range,
      before: tree,
      after: undefined,
      deliveries,
      holes: domain.holes,
      observer: this.#isWatched(view) ? this.#observerOf(view.spaces) : undefined,
      source,
      isTooMuch: source === NOTHING ? undefined : (read) => this.#exceeded(view, read) !== undefined,
    };
  }

  #sourceOf(domain: Domain): Scanned {
    if (domain.kind === "table") return domain;
    return domain.kind === "blocked" ? NOTHING : this.#identity;
  }

  /** Whether the guest's tables describe more than this view may announce; then the view fails closed. */
  #spends(view: View): boolean {
    const spent = this.#exceeded(view, this.#pass.entriesRead);
    if (spent === undefined) return false;
    view.overBudget = true;
    view.spent = spent;
    this.#reportBudget(view, view.spaces);
    return true;
  }

  /** The budget that a view exceeds, in a pass that has read so many table entries. */
  #exceeded({ tree }: View, entriesRead: number): View["spent"] {
    const { mappingsPerView, bytesPerView, tablesPerView } = this.#limits;
    if (tree.slotCount > mappingsPerView || tree.byteLength > bytesPerView)
      return { budget: "mappings", limit: mappingsPerView };
    return entriesRead > tablesPerView * 512 ? { budget: "tables", limit: tablesPerView } : undefined;
  }

  /** Names those whose view has failed closed: its own, and those who come to it. */
  #reportBudget({ overBudget, spent }: View, spaces: Iterable<AddressSpace>): void {
    if (!overBudget || spent === undefined) return;
    for (const space of spaces)
      if (this.#observers.wants(space, "budget")) this.#observers.emit("budget", { space, ...spent });
  }

  /** Whether anybody listens to what happens in a view. */
  #isWatched(view: View): boolean {
    for (const member of view.members) for (const space of member.spaces) if (this.#wantsMappings(space)) return true;
    return false;
  }

  #wantsMappings(space: AddressSpace): boolean {
    for (const name of mappingEvents) if (this.#observers.wants(space, name)) return true;
    return false;
  }

  #observerOf(spaces: Iterable<AddressSpace>): TransitionPlan["observer"] {
    const watched: AddressSpace[] = [];
    for (const space of spaces) if (this.#wantsMappings(space)) watched.push(space);
    if (watched.length === 0) return undefined;
    const targets = watched.some((space) => space.onWrite !== undefined);
    return {
      ...(targets && {
        removed: (iovaPfn: number, pageCount: number, gpaPfn: number, access: Access) => {
          for (const space of watched) this.#observers.emit("unmap", { space, iovaPfn, pageCount, gpaPfn, access });
        },
      }),
      announced: (iovaPfn: number, pageCount: number, gpaPfn: number, access: Access, wasMapped: boolean) => {
        const name = gpaPfn === -1 ? "unmap" : wasMapped ? "change" : "map";
        for (const space of watched) this.#observers.emit(name, { space, iovaPfn, pageCount, gpaPfn, access });
      },
    };
  }

  #create(domain: Domain): View {
    const view = new View(domain);
    this.#views.set(domain, view);
    return view;
  }

  #rekey(view: View, domain: Domain): void {
    this.#views.delete(view.domain);
    view.domain = domain;
    this.#views.set(domain, view);
  }

  #dropIfEmpty(view: View): void {
    if (view.members.size === 0) this.#views.delete(view.domain);
  }
}

const mappingEvents: readonly (keyof IommuEvents)[] = ["map", "unmap", "change"];
