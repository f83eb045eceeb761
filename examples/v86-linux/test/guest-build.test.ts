import { existsSync } from "node:fs";
import { mkdir, mkdtemp, readFile, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { cached, cacheRoot, recipeHash, requireSpace } from "../src/guest/build-cache.js";
import { recogniseProblem } from "../src/guest/build-problem.js";
import { requireTools } from "../src/guest/debian-packages.js";
import { fromCache, type Recipe } from "../src/guest/recipe.js";
import { inspectKernel } from "../src/guest/kernel-image.js";
import { runCommand } from "../src/guest/run-command.js";

let directory = "";

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), "iommu-kit-test-"));
  vi.stubEnv("IOMMU_KIT_CACHE", join(directory, "cache"));
});

afterEach(async () => {
  vi.unstubAllEnvs();
  await rm(directory, { recursive: true });
});

/** The few fields of a bzImage header that are looked at. */
function bzImage(options: { flags: number; version: string }): Uint8Array {
  const bytes = new Uint8Array(0x1000);
  const view = new DataView(bytes.buffer);
  view.setUint16(0x1fe, 0xaa55, true);
  bytes.set(new TextEncoder().encode("HdrS"), 0x202);
  view.setUint16(0x20e, 0x600, true);
  view.setUint16(0x236, options.flags, true);
  bytes.set(new TextEncoder().encode(options.version), 0x800);
  return bytes;
}

describe("the cache", () => {
  it("is where IOMMU_KIT_CACHE says", () => {
    expect(cacheRoot()).toBe(join(directory, "cache"));
  });

  it("builds an entry once and finds it afterwards", async () => {
    const build = vi.fn((draft: string) => writeFile(join(draft, "file"), "built"));
    const first = await cached("entry", build);
    const second = await cached("entry", build);
    expect(second).toBe(first);
    expect(build).toHaveBeenCalledTimes(1);
    expect(await readFile(join(first, "file"), "utf8")).toBe("built");
  });

  it("leaves nothing behind when a build fails", async () => {
    await expect(cached("entry", () => Promise.reject(new Error("half way")))).rejects.toThrow("half way");
    expect(await readdir(cacheRoot())).toEqual([]);
  });

  it("removes what a killed build left behind, and nothing of a build that runs", async () => {
    const abandoned = join(cacheRoot(), ".building-999999999-abcdef");
    const running = join(cacheRoot(), `.building-${process.pid}-abcdef`);
    await mkdir(abandoned, { recursive: true });
    await mkdir(running);
    await cached("entry", () => Promise.resolve());
    expect((await readdir(cacheRoot())).sort()).toEqual([`.building-${process.pid}-abcdef`, "entry"]);
  });

  it("names a recipe by all of its ingredients and their borders", () => {
    expect(recipeHash(["a", "bc"])).toBe(recipeHash(["a", "bc"]));
    expect(recipeHash(["a", "bc"])).not.toBe(recipeHash(["ab", "c"]));
    expect(recipeHash(["a", "bc"])).not.toBe(recipeHash(["a", "bd"]));
  });

  it("says how much room is missing and where to find some", async () => {
    await expect(requireSpace(1e18)).rejects.toThrow(
      /GB free and the build needs .* GB: free some, or set IOMMU_KIT_CACHE/,
    );
    await expect(requireSpace(1)).resolves.toBeUndefined();
  });
});

describe("what can go wrong on somebody else's machine", () => {
  it("says that the disk is full when a file of the build cannot be written", async () => {
    const full = (): Promise<void> => Promise.reject(Object.assign(new Error("write"), { code: "ENOSPC" }));
    await expect(cached("full", full)).rejects.toMatchObject({
      code: "no-space",
      message: expect.stringMatching(/^The disk is full where .* is: free some, or set IOMMU_KIT_CACHE/) as string,
    });
  });

  it("recognises a full disk and a missing network in the output of tools", () => {
    expect(recogniseProblem("tar: write error: No space left on device", "/cache")?.code).toBe("no-space");
    expect(recogniseProblem("Temporary failure resolving 'deb.debian.org'", "/cache")?.code).toBe("no-network");
    expect(recogniseProblem("error: expected ';'", "/cache")).toBeUndefined();
  });

  it("names every missing package at once, with the command that installs them", async () => {
    const tools = { sh: "dash", "no-such-tool-1": "first-package", "/no/such/header.h": "second-package" };
    await expect(requireTools(tools)).rejects.toThrow(
      "apt-get install --no-install-recommends first-package second-package",
    );
  });

  it("asks for the tools of everything that is not built yet before it builds the first", async () => {
    const build = vi.fn(() => Promise.resolve());
    const recipe = (entry: string, tools: Recipe["tools"]): Recipe => ({ entry, tools, build });
    const easy = recipe("easy", { sh: "dash" });
    const hard = [recipe("one", { "no-such-tool-1": "first" }), recipe("two", { "no-such-tool-2": "second" })];
    await expect(fromCache([easy, ...hard])).rejects.toThrow("apt-get install --no-install-recommends first second`");
    expect(build).not.toHaveBeenCalled();
    await cached("two", () => Promise.resolve());
    await expect(fromCache([easy, ...hard])).rejects.toThrow("apt-get install --no-install-recommends first`");
    await cached("one", () => Promise.resolve());
    expect(await fromCache([easy, ...hard])).toEqual(["easy", "one", "two"].map((name) => join(cacheRoot(), name)));
    expect(build).toHaveBeenCalledTimes(1);
  });

  it("says which program is not there", async () => {
    await expect(runCommand("no-such-tool-1", [])).rejects.toMatchObject({ code: "missing-tool" });
  });

  it("shows the last lines of a command that failed for another reason", async () => {
    await expect(runCommand("sh", ["-c", "echo the cause; exit 3"])).rejects.toThrow(/status 3.*\nthe cause/);
  });
});

describe("inspectKernel", () => {
  async function file(bytes: Uint8Array): Promise<string> {
    const path = join(directory, "kernel");
    await writeFile(path, bytes);
    return path;
  }

  it("reads the version of a 32-bit bzImage", async () => {
    const path = await file(bzImage({ flags: 0, version: "6.1.0-test (somebody)" }));
    expect(await inspectKernel(path)).toEqual({ file: path, version: "6.1.0-test (somebody)" });
  });

  it.each([
    ["a 64-bit kernel", bzImage({ flags: 1, version: "6.1.0" }), /is a 64-bit kernel, and v86 is a 32-bit machine/],
    ["a vmlinux", Uint8Array.of(0x7f, 0x45, 0x4c, 0x46, 1, 1), /is an ELF file/],
    ["anything else", new Uint8Array(100), /is not a Linux kernel image/],
  ])("says that it got %s", async (_, bytes, message) => {
    await expect(inspectKernel(await file(bytes))).rejects.toThrow(message);
  });

  it("says that a file cannot be read", async () => {
    expect(existsSync("/no/such/kernel")).toBe(false);
    await expect(inspectKernel("/no/such/kernel")).rejects.toMatchObject({ code: "wrong-kernel" });
  });
});
