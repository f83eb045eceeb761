/**
 * The in-memory container against a real kernel: every fact of `data/type1-facts.txt` for both versions of the type 1
 * container, and every call of `data/type1v2-trace.txt`.
 */
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { MemoryContainer, type1, type1v2 } from "@iommu-kit/notifier-vfio";
import { KernelShim, UNKNOWN_FLAG } from "./kernel-shim.js";

const RW = 3;
const PAGE = 0x1000n;
const VADDR = 0x7f0000000000n;
const END_OF_SPACE = 0xffff_ffff_ffff_f000n;

/** The calls behind the facts, in the order in which they were made; each answers the text right of the arrow. */
function factCalls(kernel: KernelShim): [name: string, call: () => string][] {
  const map = (iova: bigint, size: bigint, vaddr: bigint, flags: number) => () => kernel.map(iova, size, vaddr, flags);
  const unmap = (iova: bigint, size: bigint) => () => unmapped(kernel.unmap(iova, size));
  const unmapAll = (iova: bigint, size: bigint) => () => unmapped(kernel.unmapAll(iova, size));
  const dirtyBase = 0x10_0000n;
  const read = (iova: bigint, size: bigint, pageBytes: number, bitmapBytes: number, shown: boolean) => () => {
    const { errno, bitmap } = kernel.getBitmap(iova, size, pageBytes, bitmapBytes);
    return shown ? `${errno} bitmap=${hexByte(bitmap)}` : errno;
  };
  const unmapRead = (iova: bigint, size: bigint, shown: boolean) => () => {
    const reply = kernel.unmapWithBitmap(iova, size, 4096, 8);
    const text = `${reply.errno} unmapped=0x${reply.size.toString(16)}`;
    return shown ? `${text} bitmap=${hexByte(reply.bitmap)}` : text;
  };
  return [
    ["map 4K rw", map(0x1_0000n, PAGE, VADDR, RW)],
    ["map identical again", map(0x1_0000n, PAGE, VADDR, RW)],
    ["map same iova other vaddr", map(0x1_0000n, PAGE, VADDR + PAGE, RW)],
    ["map overlapping the end of it", map(0xf000n, 2n * PAGE, VADDR, RW)],
    ["map directly after (adjacent)", map(0x1_1000n, PAGE, VADDR + PAGE, RW)],
    ["map 16K", map(0x2_0000n, 4n * PAGE, VADDR, RW)],
    ["map size 0", map(0x3_0000n, 0n, VADDR, RW)],
    ["map unaligned iova", map(0x3_0800n, PAGE, VADDR, RW)],
    ["map unaligned size", map(0x3_0000n, 0x801n, VADDR, RW)],
    ["map unaligned vaddr", map(0x3_0000n, PAGE, VADDR + 1n, RW)],
    ["map prot none", map(0x3_0000n, PAGE, VADDR, 0)],
    ["map read only", map(0x4_0000n, PAGE, VADDR, 1)],
    ["map write only", map(0x4_1000n, PAGE, VADDR, 2)],
    ["map unknown flag 1<<5", map(0x5_0000n, PAGE, VADDR, RW | UNKNOWN_FLAG)],
    ["map in MSI window 0xfee00000", map(0xfee0_0000n, PAGE, VADDR, RW)],
    ["map across MSI window", map(0xfedf_f000n, 2n * PAGE, VADDR, RW)],
    ["map wrap end of 64 bit", map(END_OF_SPACE, 2n * PAGE, VADDR, RW)],
    ["map beyond aperture 1<<39", map(1n << 39n, PAGE, VADDR, RW)],
    ["map beyond aperture 1<<48", map(1n << 48n, PAGE, VADDR, RW)],
    ["map last page below 1<<39", map((1n << 39n) - PAGE, PAGE, VADDR, RW)],
    ["unmap middle page of 16K mapping", unmap(0x2_1000n, PAGE)],
    ["unmap first page of 16K mapping", unmap(0x2_0000n, PAGE)],
    ["unmap first 8K..beyond end", unmap(0x2_2000n, 0x1_0000n)],
    ["unmap exactly the 16K", unmap(0x2_0000n, 4n * PAGE)],
    ["unmap it again (hole)", unmap(0x2_0000n, 4n * PAGE)],
    ["unmap union of two adjacent mappings", unmap(0x1_0000n, 2n * PAGE)],
    ["map 4K A", map(0x5_0000n, PAGE, VADDR, RW)],
    ["map 4K B (gap of 1 page)", map(0x5_2000n, PAGE, VADDR, RW)],
    ["unmap range covering A, gap, B and more", unmap(0x5_0000n, 8n * PAGE)],
    ["unmap size 0", unmap(0x5_0000n, 0n)],
    ["unmap unaligned iova", unmap(0x5_0800n, PAGE)],
    ["unmap unaligned size", unmap(0x5_0000n, 0x801n)],
    ["unmap wrap", unmap(END_OF_SPACE, 2n * PAGE)],
    ["unmap whole 64 bit (0,size=~0 page aligned)", unmap(0n, END_OF_SPACE)],
    ["map C", map(0x6_0000n, PAGE, VADDR, RW)],
    ["UNMAP_ALL with size!=0", unmapAll(0n, PAGE)],
    ["UNMAP_ALL", unmapAll(0n, 0n)],
    ["UNMAP_ALL again", unmapAll(0n, 0n)],
    ["map 8 pages for dirty", map(dirtyBase, 8n * PAGE, VADDR, RW)],
    ["GET_BITMAP before START", read(dirtyBase, 8n * PAGE, 4096, 8, false)],
    ["dirty START", () => kernel.dirty("start")],
    ["dirty START again", () => kernel.dirty("start")],
    ["GET_BITMAP exact mapping", read(dirtyBase, 8n * PAGE, 4096, 8, true)],
    ["GET_BITMAP again", read(dirtyBase, 8n * PAGE, 4096, 8, true)],
    ["GET_BITMAP part of the mapping (bisect)", read(dirtyBase + PAGE, 2n * PAGE, 4096, 8, false)],
    ["GET_BITMAP superset of the mapping", read(dirtyBase - PAGE, 16n * PAGE, 4096, 8, false)],
    ["GET_BITMAP pgsize 8192", read(dirtyBase, 8n * PAGE, 8192, 8, false)],
    ["GET_BITMAP bitmap size too small (4 bytes)", read(dirtyBase, 8n * PAGE, 4096, 4, false)],
    ["UNMAP with GET_DIRTY_BITMAP", unmapRead(dirtyBase, 8n * PAGE, true)],
    ["map D while dirty on", map(dirtyBase, PAGE, VADDR, RW)],
    ["map E while dirty on", map(dirtyBase + 2n * PAGE, PAGE, VADDR, RW)],
    ["UNMAP+bitmap over two mappings and a gap", unmapRead(dirtyBase, 4n * PAGE, true)],
    ["dirty STOP", () => kernel.dirty("stop")],
    ["dirty STOP again", () => kernel.dirty("stop")],
    ["UNMAP+bitmap while dirty off", unmapRead(dirtyBase, 4n * PAGE, false)],
  ];
}

describe.each([
  { heading: "TYPE1", profile: type1 },
  { heading: "TYPE1v2", profile: type1v2 },
])("an in-memory container with the rules of $heading", ({ heading, profile }) => {
  it("answers every fact as the kernel did, call by call", () => {
    const calls = factCalls(new KernelShim(new MemoryContainer(profile)));

    const answered = calls.map(([name, call]) => `${name} -> ${call()}`);

    expect(answered).toEqual(recordedFacts(heading));
    expect(answered).toHaveLength(55);
  });
});

it("takes 65535 entries of type1v2, refuses the next for want of space, and removes all of them in one call", () => {
  const facts = recordedLines("type1-facts.txt");
  const container = new MemoryContainer(type1v2);
  const kernel = new KernelShim(container);
  let held = 0n;
  while (kernel.map(held * 2n * PAGE, PAGE, VADDR, RW) === "ok") held += 1n;

  const limit = `limit: entry ${held} fails with ${kernel.map(held * 2n * PAGE, PAGE, VADDR, RW)}`;
  expect(facts.find((line) => line.startsWith("FACT limit"))).toContain(limit);
  expect(container.entriesHeld).toBe(type1v2.entryLimit);

  // The kernel's run had removed 2000 entries one by one before it removed the rest at once.
  for (let entry = 0n; entry < 2000n; entry++) expect(kernel.unmap(entry * 2n * PAGE, PAGE).errno).toBe("ok");
  const count = container.entriesHeld;
  const all = kernel.unmapAll(0n, 0n);
  const recorded = facts.find((line) => line.includes("UNMAP_ALL of"));
  expect(recorded).toContain(`UNMAP_ALL of ${count} entries: ${all.errno}`);
  expect(recorded).toContain(`size=0x${all.size.toString(16)}`);
});

it("answers all 1,500 random calls of the recorded trace with the kernel's error and size", () => {
  const kernel = new KernelShim(new MemoryContainer(type1v2));
  const trace = recordedLines("type1v2-trace.txt").filter((line) => line.startsWith("TRACE"));

  const answered = trace.map((line) => {
    const [, kind = "", iova = "", size = "", vaddr = "", flags = ""] = line.split(" ");
    if (kind === "M") {
      const errno = kernel.map(hex(iova), hex(size), VADDR + hex(vaddr), Number.parseInt(flags, 16));
      return `TRACE M ${iova} ${size} ${vaddr} ${flags} ${errno}`;
    }
    const reply = kernel.unmap(hex(iova), hex(size));
    return `TRACE U ${iova} ${size} ${reply.errno} ${reply.size.toString(16)}`;
  });

  expect(answered).toEqual(trace);
  expect(answered).toHaveLength(1500);
});

function unmapped(reply: { errno: string; size: bigint }): string {
  return `${reply.errno}, unmapped=0x${reply.size.toString(16)}`;
}

function hex(digits: string): bigint {
  return BigInt(`0x${digits}`);
}

function hexByte(bitmap: Uint8Array): string {
  return (bitmap[0] ?? 0).toString(16).padStart(2, "0");
}

function recordedLines(file: string): string[] {
  return readFileSync(new URL(`data/${file}`, import.meta.url), "utf8").split("\n");
}

/** The facts of one container type as `name -> answer`. */
function recordedFacts(heading: string): string[] {
  const lines = recordedLines("type1-facts.txt");
  const section = lines.slice(lines.indexOf(`=== ${heading}`) + 1);
  const end = section.findIndex((line) => line.startsWith("==="));
  return section
    .slice(0, end === -1 ? undefined : end)
    .filter((line) => line.startsWith("FACT") && line.includes("->"))
    .map((line) => line.slice(5).replace(/\s+-> /, " -> "));
}
