import { expect, it } from "vitest";
import { Access, type IommuError } from "@iommu-kit/iommu-core";
import { GuestDriver } from "@iommu-kit/iommu-vtd/testing";
import { VfioNotifier } from "@iommu-kit/notifier-vfio";
import { socketTransport, VfioUserClient, VfioUserContainer } from "@iommu-kit/notifier-vfio/vfio-user";

it("descriptors that cannot be sent in the middle of a guest's map cut the server off: the guest goes on", async () => {
  const guest = new GuestDriver({ cachingMode: true });
  guest.context("00:03.0", { did: 1 });
  guest.start();
  const space = guest.device("00:03.0");
  let answer: (bytes: Uint8Array) => void = () => undefined;
  const socket = {
    writableLength: 0,
    write: () => true,
    destroy: () => undefined,
    on: (event: string, listener: unknown) => void (event === "data" && (answer = listener as typeof answer)),
  };
  const transport = socketTransport(socket, () => {
    throw new Error("EBADF");
  });
  const ends: IommuError[] = [];
  const client = new VfioUserClient({ transport, space, onClose: (error) => ends.push(error) });
  const connected = client.connect();
  // VERSION 0.0 without capabilities, in reply to the first message.
  answer(Uint8Array.from([1, 0, 1, 0, 20, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]));
  await connected;
  const memory = [{ firstPfn: 0, pageCount: 0x40000, fd: 9, offsetBytes: 0 }];
  const container = new VfioUserContainer(client, { memory });
  const attachment = new VfioNotifier(container).attachTo(space);

  guest.map(1, { iovaPfn: 0x10, gpaPfn: 0x1000 });
  expect(() => guest.invalidate.domain(1)).not.toThrow();
  while (!guest.queue.completed) {
    guest.scheduler.turn();
    await Promise.resolve();
  }

  expect(attachment.state).toBe("failed");
  expect(ends.map(({ cause }) => String(cause))).toEqual(["Error: EBADF"]);
  expect(container.map(0, 1, 0, Access.read)).toEqual({ ok: false, cause: "gone" });
});
