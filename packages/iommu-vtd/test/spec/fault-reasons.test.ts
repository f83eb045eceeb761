// Fault reasons against a table written from the specification: code, recorded despite FPD, answers to AT = 1 and AT = 2.
import { describe, expect, it } from "vitest";
import {
  answerToTranslatedRequest,
  answerToTranslationRequest,
  FaultAnswer,
  faultCode,
  FaultReason,
  isQualified,
  isRecoverable,
} from "../../src/spec/fault-reasons.js";
import { faultMeaning, faultTable } from "../../src/spec/fault-texts.js";

// Columns: mnemonic, code, Q if FPD counts (U if not), answer to a translation request, to a translated request.
// "-": the condition does not occur for that kind of request.
const table = `
LRT.2 01 U UR UR      LCT.2 02 Q UR UR      LCT.4.1 03 Q CA UR    LCT.4.2 03 Q CA UR    LCT.4.3 03 Q CA -
LGN.1.1 04 Q S0 -     LGN.1.2 04 Q - UR     LGN.1.3 04 Q - -      LGN.2 05 Q SE -       LGN.3 06 Q SE -
LSS.1 07 Q CA -       LRT.1 08 U CA UR      LCT.1 09 U CA UR      LRT.3 0a U CA UR      LCT.3 0b Q CA UR
LSS.2 0c Q CA -       LCT.5 0d Q UR UR      LGN.4 0e Q CA UR
RTA.1.1 30 U CA UR    RTA.1.2 30 U CA UR    RTA.1.3 30 U CA UR    RTA.1.4 30 U CA UR    RTA.2 31 U UR UR
RTA.3 32 U - -        RTA.4 33 U UR UR      RTA.5 34 U UR UR
SRT.1 38 U CA UR      SRT.2 39 U UR UR      SRT.3 3a U CA UR
SCT.1 40 U CA UR      SCT.2 41 Q UR UR      SCT.3 42 Q CA UR      SCT.4.1 43 Q CA UR    SCT.4.2 43 Q CA UR
SCT.4.3 43 Q CA UR    SCT.5 44 Q UR UR      SCT.6 45 Q UR -       SCT.7 46 Q UR UR      SCT.8 47 Q - -
SCT.9 48 Q UR UR      SCT.10 49 Q - UR
SPD.1 50 U CA CA      SPD.2 51 Q S0 UR      SPD.3 52 Q CA CA
SPT.1 58 U CA CA      SPT.2 59 Q S0 UR      SPT.3 5a Q CA CA      SPT.4.1 5b Q CA CA    SPT.4.2 5b Q CA CA
SPT.4.3 5b Q CA CA    SPT.4.4 5b Q CA CA    SPT.5 5c Q S0 -       SPT.6 5d Q S0 -       SPT.9 60 Q - UR
SFS.1 70 Q S0 -       SFS.2 71 Q S0 -       SFS.3 72 Q S0 -       SFS.4 73 Q S0 -       SFS.5 74 Q S0 -
SFS.6 75 Q S0 -       SFS.7 76 Q S0 -       SFS.8 77 Q S0 -
SSS.1 78 Q CA -       SSS.2 79 Q S0 -       SSS.3 7a Q CA -       SSS.4 7b Q CA -       SSS.5 7c Q CA -
SSS.6 7d Q CA -
SGN.1 80 Q S0 -       SGN.2 81 Q S0 -       SGN.3 82 Q S0 -       SGN.4.1 83 Q - UR     SGN.4.2 83 Q S0 -
SGN.5 84 Q S0 -       SGN.6 85 Q SE -       SGN.7 86 Q SE -       SGN.8.1 87 Q - -      SGN.8.2 87 Q CA -
SGN.8.3 87 Q - UR     SGN.10 89 Q UR UR
SFS.9 90 Q S0 -       SFS.10 91 Q S0 -
HPT.1 a0 Q - CA       HPT.2 a1 Q - CA       HPT.3 a2 Q - CA       HPT.4 a3 Q - UR       HPT.5 a4 Q - UR
HPT.6 a5 Q - UR
`;

const rows = table
  .trim()
  .split(/\n|\s{3,}/)
  .map((line) => line.trim().split(" "));
const answers: Readonly<Record<string, FaultAnswer>> = {
  CA: FaultAnswer.COMPLETER_ABORT,
  UR: FaultAnswer.UNSUPPORTED_REQUEST,
  S0: FaultAnswer.NO_PERMISSION,
  SE: FaultAnswer.REMAINING_PERMISSIONS,
};
const byMnemonic = new Map(faultTable().map((row) => [row.mnemonic, row]));

describe("fault reasons of DMA", () => {
  it("are exactly those of the specification", () => {
    const ours = faultTable().filter(({ name }) => !name.startsWith("INTERRUPT"));
    expect(ours.map(({ mnemonic }) => mnemonic).toSorted()).toEqual(rows.map(([mnemonic = ""]) => mnemonic).toSorted());
  });

  it.each(rows)("%s has code %s, FPD %s, answers %s and %s", (mnemonic, code, qualified, translation, translated) => {
    const row = byMnemonic.get(mnemonic ?? "");
    const reason = row?.reason ?? -1;
    expect(row?.code).toBe(Number.parseInt(code ?? "", 16));
    expect(faultCode(reason)).toBe(row?.code);
    expect(isQualified(reason)).toBe(qualified === "Q");
    if (translation !== "-") expect(answerToTranslationRequest(reason)).toBe(answers[translation ?? ""]);
    if (translated !== "-") expect(answerToTranslatedRequest(reason)).toBe(answers[translated ?? ""]);
    // SFS.10 is answered like a recoverable fault, but recorded.
    if (translation !== "-") {
      expect(isRecoverable(reason)).toBe((translation === "S0" || translation === "SE") && mnemonic !== "SFS.10");
    }
  });
});

describe("fault reasons of interrupts", () => {
  it("are the codes 20h to 2Bh, and FPD of the entry counts once the entry was read", () => {
    const interrupts = faultTable().filter(({ name }) => name.startsWith("INTERRUPT"));
    expect(interrupts.map(({ code }) => code)).toEqual(Array.from({ length: 12 }, (_, index) => 0x20 + index));
    const qualified = interrupts.filter(({ reason }) => isQualified(reason)).map(({ code }) => code);
    expect(qualified).toEqual([0x22, 0x24, 0x26, 0x27, 0x28]);
  });
});

describe("fault reasons for people", () => {
  it("are different numbers, each with one short line", () => {
    const all = Object.values(FaultReason);
    expect(new Set(all).size).toBe(all.length);
    for (const { meaning } of faultTable()) expect(meaning).toMatch(/^[A-Z].{10,79}$/);
  });

  it("can be looked up by reason, by bare code, and when reserved", () => {
    expect(faultMeaning(FaultReason.LCT_4_2)).toContain("translation type");
    expect(faultMeaning(0x05)).toBe("No write permission");
    expect(faultMeaning(0x03)).toContain("address width");
    expect(faultMeaning(0x88)).toBe("Reserved fault reason 88h");
  });
});
