/**
 * Byte-wise structures as tables: where each field lies, how wide it is, which of its bits mean something.
 *
 * A layout is declared once and everything else follows from it: reads, writes, and which bytes and bits are
 * reserved. Little-endian, as all of ACPI. A 64-bit field is a JS number: exact below 2^53, and above that
 * rounded (the reader's caller checks with Number.isSafeInteger). Overlapping fields are refused at load time.
 */

/** One field of a byte layout. */
export interface ByteField {
  readonly offsetBytes: number;
  readonly byteLength: number;
  /** Bits that carry meaning; the others are reserved. Absent: all of them. Only for fields of one byte. */
  readonly definedMask?: number;
}

/** A one-byte field whose bits are independent flags, by their spec mnemonic. */
export interface FlagsField<Name extends string> extends ByteField {
  readonly bits: Readonly<Record<Name, number>>;
}

/** A structure: its fixed length, its fields, and the bytes that no field claims. */
export interface ByteLayout<Fields extends Readonly<Record<string, ByteField>>> {
  readonly byteLength: number;
  readonly fields: Fields;
  readonly reservedOffsets: readonly number[];
}

/** Any layout, whatever its fields are called. */
export type AnyLayout = ByteLayout<Readonly<Record<string, ByteField>>>;

/** An 8-bit field; `definedMask` names the bits that are not reserved. */
export function u8(offsetBytes: number, definedMask = 0xff): ByteField {
  return { offsetBytes, byteLength: 1, definedMask };
}

/** A 16-bit field. */
export function u16(offsetBytes: number): ByteField {
  return { offsetBytes, byteLength: 2 };
}

/** A 32-bit unsigned field. */
export function u32(offsetBytes: number): ByteField {
  return { offsetBytes, byteLength: 4 };
}

/** A 64-bit field, read and written as a JS number. */
export function u64(offsetBytes: number): ByteField {
  return { offsetBytes, byteLength: 8 };
}

/** A text field of a fixed number of bytes. */
export function text(offsetBytes: number, byteLength: number): ByteField {
  return { offsetBytes, byteLength };
}

/** A byte of flags; `bits` gives the bit number of each, all others are reserved. */
export function flags<Name extends string>(
  offsetBytes: number,
  bits: Readonly<Record<Name, number>>,
): FlagsField<Name> {
  let definedMask = 0;
  for (const bit of Object.values<number>(bits)) definedMask |= 1 << bit;
  return { offsetBytes, byteLength: 1, definedMask, bits };
}

/**
 * Declares a structure of `byteLength` bytes. Bytes that no field covers are reserved.
 * @throws RangeError when fields overlap or leave the structure (a mistake in a spec table, seen at load time).
 */
export function byteLayout<Fields extends Readonly<Record<string, ByteField>>>(
  byteLength: number,
  fields: Fields,
): ByteLayout<Fields> {
  const owner: (string | undefined)[] = Array.from({ length: byteLength });
  for (const [name, field] of Object.entries(fields)) {
    const end = field.offsetBytes + field.byteLength;
    if (end > byteLength) throw new RangeError(`${name} ends at byte ${end} of a structure of ${byteLength}`);
    for (let offset = field.offsetBytes; offset < end; offset++) {
      if (owner[offset] !== undefined) throw new RangeError(`${name} overlaps ${owner[offset]} at byte ${offset}`);
      owner[offset] = name;
    }
  }
  const reservedOffsets = owner.flatMap((name, offset) => (name === undefined ? [offset] : []));
  return { byteLength, fields, reservedOffsets };
}

/** Reads a number field of the structure that begins at `baseBytes`; a 64-bit value from 2^53 on is rounded. */
export function readField(view: DataView, baseBytes: number, field: ByteField): number {
  const at = baseBytes + field.offsetBytes;
  switch (field.byteLength) {
    case 1:
      return view.getUint8(at) & (field.definedMask ?? 0xff);
    case 2:
      return view.getUint16(at, true);
    case 4:
      return view.getUint32(at, true);
    default:
      return view.getUint32(at + 4, true) * 2 ** 32 + view.getUint32(at, true);
  }
}

/** Writes a number field of the structure that begins at `baseBytes`; the caller has checked the value's range. */
export function writeField(view: DataView, baseBytes: number, field: ByteField, value: number): void {
  const at = baseBytes + field.offsetBytes;
  switch (field.byteLength) {
    case 1:
      view.setUint8(at, value);
      return;
    case 2:
      view.setUint16(at, value, true);
      return;
    case 4:
      view.setUint32(at, value, true);
      return;
    default:
      view.setUint32(at, value % 2 ** 32, true);
      view.setUint32(at + 4, Math.floor(value / 2 ** 32), true);
  }
}

/** Reads a text field: one character per byte, without the spaces and NULs that pad it. */
export function readText(view: DataView, baseBytes: number, field: ByteField): string {
  let value = "";
  for (let index = 0; index < field.byteLength; index++) {
    value += String.fromCharCode(view.getUint8(baseBytes + field.offsetBytes + index));
  }
  return value.replace(/[ \0]+$/, "");
}

/** Writes a text field, padded with spaces; the caller has checked its length and characters. */
export function writeText(view: DataView, baseBytes: number, field: ByteField, value: string): void {
  const padded = value.padEnd(field.byteLength, " ");
  for (let index = 0; index < field.byteLength; index++) {
    view.setUint8(baseBytes + field.offsetBytes + index, padded.charCodeAt(index));
  }
}

/** Reads one flag of a byte of flags. */
export function readFlag<Name extends string>(
  view: DataView,
  baseBytes: number,
  field: FlagsField<Name>,
  name: Name,
): boolean {
  return (readField(view, baseBytes, field) & (1 << field.bits[name])) !== 0;
}

/** The value of a byte of flags in which exactly the named ones are set. */
export function packFlags<Name extends string>(field: FlagsField<Name>, names: readonly Name[]): number {
  return names.reduce((value, name) => value | (1 << field.bits[name]), 0);
}

/** Offsets (from `baseBytes`) of the bytes in which a reserved bit is set. */
export function reservedBitsSet(view: DataView, baseBytes: number, layout: AnyLayout): number[] {
  const offenders = layout.reservedOffsets.filter((offset) => view.getUint8(baseBytes + offset) !== 0);
  for (const { offsetBytes, definedMask } of Object.values(layout.fields)) {
    if (definedMask !== undefined && (view.getUint8(baseBytes + offsetBytes) & ~definedMask) !== 0) {
      offenders.push(offsetBytes);
    }
  }
  return offenders;
}
