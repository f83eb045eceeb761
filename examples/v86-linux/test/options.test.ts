import { describe, expect, it } from "vitest";
import { readOptions, USAGE } from "../src/options.js";

const NAMES = ["strict", "vfio", "boot-time"];

describe("the command line of pnpm linux", () => {
  it("runs everything, with the guest's console and five pairs, if nothing is said", () => {
    expect(readOptions([], NAMES)).toMatchObject({ chosen: NAMES, pairs: 5, quiet: false, json: false, help: false });
  });

  it("takes several scenarios", () => {
    expect(readOptions(["--scenario", "vfio", "--scenario=strict"], NAMES).chosen).toEqual(["vfio", "strict"]);
  });

  it("knows --help and -h, which name every option", () => {
    expect(readOptions(["-h"], NAMES).help).toBe(true);
    expect(readOptions(["--help"], NAMES).help).toBe(true);
    for (const option of ["scenario", "kernel", "refresh", "pairs", "quiet", "json", "list"])
      expect(USAGE).toContain(`--${option}`);
  });

  it.each([
    [["--fast"], /^Unknown option '--fast'.*`pnpm linux --help` names the options\.$/],
    [["strict"], /^Unexpected argument 'strict'.*`pnpm linux --help` names the options\.$/],
    [["--kernel"], /`pnpm linux --help` names the options\.$/],
    [["--scenario", "loose"], /^There is no scenario "loose": the names are strict, vfio, boot-time\.$/],
    [["--pairs", "0"], /^--pairs takes a number from 1 on, and got "0"\.$/],
    [["--pairs", "many"], /^--pairs takes a number from 1 on/],
  ])("answers %j with one sentence", (args, sentence) => {
    const call = (): unknown => readOptions(args, NAMES);
    expect(call).toThrow(
      expect.objectContaining({ code: "bad-option", message: expect.stringMatching(sentence) as string }),
    );
  });
});
