/**
 * `pnpm partners [--install] [dpdk] [qemu]`: real programs at the far side of the notifiers. Prints what was proved; fails if anything was not.
 */
import { proveDpdk } from "./dpdk.js";
import { install, isInstalled, type Program, PROGRAMS } from "./install.js";
import { type Proof, table } from "./proof.js";
import { proveQemu } from "./qemu.js";

interface Partner {
  readonly name: string;
  readonly program: Program;
  readonly prove: () => Promise<Proof>;
}

const PARTNERS: readonly Partner[] = [
  { name: "dpdk", program: "dpdk-testpmd", prove: proveDpdk },
  { name: "qemu", program: "qemu-system-x86_64", prove: proveQemu },
];

async function main(args: readonly string[]): Promise<number> {
  const unknown = args.filter(
    (it) => it !== "--install" && it !== "--" && !PARTNERS.some((partner) => partner.name === it),
  );
  if (unknown.length > 0) {
    console.error(`expected --install or ${PARTNERS.map((it) => it.name).join(", ")}, got ${unknown.join(" ")}`);
    return 2;
  }
  const named = PARTNERS.filter((partner) => args.includes(partner.name));
  const wanted = named.length > 0 ? named : PARTNERS;
  if (args.includes("--install")) install(wanted.map((it) => it.program));
  const missing = wanted.filter((it) => !isInstalled(it.program));
  if (missing.length > 0) {
    for (const { program } of missing)
      console.error(`${program} is not installed. Debian has it: apt-get install ${PROGRAMS[program].join(" ")}`);
    console.error("`pnpm partners --install` does that.");
    return 1;
  }
  const proofs: Proof[] = [];
  for (const { prove } of wanted) {
    try {
      proofs.push(await prove());
    } catch (error) {
      console.log(`  NOT PROVED  it ended early: ${String(error)}`);
    }
    console.log("");
  }
  for (const line of table(proofs)) console.log(line);
  const complete = proofs.length === wanted.length && proofs.every((proof) => proof.complete);
  console.log(complete ? "Everything was proved." : "NOT everything was proved.");
  return complete ? 0 : 1;
}

process.exitCode = await main(process.argv.slice(2));
