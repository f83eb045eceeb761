/**
 * Where a device sits, as people write it: "00:1f.2", or "00:1c.0/00.0" for a device behind a bridge.
 *
 * The first part is the start bus and the device and function on it; each further "dd.f" is a device and function on
 * the secondary bus of the bridge before (§8.3.1). All numbers are hexadecimal. The parser takes any 8-bit number, so
 * that a damaged table can be shown as it is; whether 5 and 3 bits suffice is a rule (dmar-rules.ts).
 */

/** A path, taken apart. */
export interface DevicePath {
  readonly startBus: number;
  readonly pairs: readonly { readonly device: number; readonly function: number }[];
}

const PATH = /^([0-9a-f]{1,2}):([0-9a-f]{1,2}\.[0-9a-f]{1,2}(?:\/[0-9a-f]{1,2}\.[0-9a-f]{1,2})*)$/i;

/** Takes a path apart; undefined when it does not have the form "bb:dd.f" or "bb:dd.f/dd.f". */
export function parseDevicePath(path: string): DevicePath | undefined {
  const match = PATH.exec(path);
  const bus = match?.[1];
  const steps = match?.[2];
  if (bus === undefined || steps === undefined) return undefined;
  const pairs = steps.split("/").map((step) => {
    const [device = "", fn = ""] = step.split(".");
    return { device: Number.parseInt(device, 16), function: Number.parseInt(fn, 16) };
  });
  return { startBus: Number.parseInt(bus, 16), pairs };
}

/** The canonical spelling of a path: lower case, two digits for bus and device. */
export function formatDevicePath(path: DevicePath): string {
  const steps = path.pairs.map((pair) => `${hex2(pair.device)}.${pair.function.toString(16)}`);
  return `${hex2(path.startBus)}:${steps.join("/")}`;
}

function hex2(value: number): string {
  return value.toString(16).padStart(2, "0");
}
