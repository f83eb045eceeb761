import { describe, expect, it } from "vitest";
import { DemandPagingGuest, DEVICE, PASID } from "../src/demand-paging-guest.js";
import { runDemo } from "../src/demo.js";
import { PageFaultDevice } from "../src/page-fault-device.js";

describe("the page-fault device", () => {
  it("does everything that the example shows", async () => {
    const lines: string[] = [];
    expect(await runDemo((line) => lines.push(line))).toBe(true);
    expect(lines.length).toBeGreaterThan(8);
    expect(lines.filter((line) => !line.startsWith("ok"))).toEqual([]);
  });

  it("gives up on a guest that answers success and maps nothing", async () => {
    const guest = new DemandPagingGuest(0x100, 4);
    const { unit, queue } = guest.driver;
    const device = new PageFaultDevice(unit, guest.driver.device(DEVICE, { pasid: PASID }));
    const transfer = device.read(0x100 * 4096, new Uint8Array(4));
    for (let group = 0; group < 3; group++) {
      queue.run(Int32Array.of(0x19 | (0x18 << 16), PASID, group << 3, 0, 0, 0, 0, 0));
      await guest.driver.scheduler.idle();
    }
    expect(await transfer).toBe("guest failed");
    expect(device.faultCount).toBe(3);
  });
});
