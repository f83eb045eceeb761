/** The first notifier of a domain hears all of it: nothing is known yet, so the tables are scanned and remembered. */

import type { Group } from "../group.js";
import { timeRow } from "../group.js";
import { BenchGuest, DEVICE } from "../guest.js";
import { CountingNotifier } from "../notifier.js";
import { compare, inProcess } from "../ratio.js";
import { atMost } from "../row.js";
import { TableCopies } from "./table-compare.js";

/** See the file's header. */
export const replayGroup: Group = {
  name: "replay",
  async measure(size, report) {
    const guest = new BenchGuest({ pages: size.pages });
    guest.start();
    const copies = new TableCopies(guest);
    const space = guest.unit.addressSpace(DEVICE);
    let attachment = space.attach(new CountingNotifier());
    const replay = inProcess(
      () => {
        const notifier = new CountingNotifier();
        attachment = space.attach(notifier);
        return notifier.mapped;
      },
      () => void attachment.detach(),
    );
    const plain = inProcess(() => size.pages + copies.compare());
    const repeats = { units: size.pages, pairs: Math.min(size.pairs, 7), check: size.pages };
    report(
      timeRow(
        {
          what: "first replay into a notifier",
          against: "compare of the same table pages with a copy",
          per: "page",
          goal: atMost(15),
        },
        await compare(replay, plain, repeats),
      ),
    );
  },
};
