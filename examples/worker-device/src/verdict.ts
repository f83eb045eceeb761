/** The claims as lines for people; the last one is the count. */

import type { Check } from "./scenario.js";

/** See the file's header. `ok`: there were claims, and all of them hold. */
export function report(checks: readonly Check[]): { readonly lines: readonly string[]; readonly ok: boolean } {
  const failed = checks.filter((check) => !check.ok).length;
  const lines = checks.map(({ what, expected, found, ok }) =>
    ok ? `  ok   ${what}: ${found}` : `  FAIL ${what}: wanted ${expected}, found ${found}`,
  );
  return {
    lines: [...lines, `${checks.length - failed} passed, ${failed} failed`],
    ok: failed === 0 && checks.length > 0,
  };
}
