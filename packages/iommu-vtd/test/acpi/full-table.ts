/**
 * A table with every structure type and every kind of device scope.
 */

import type { DmarTable } from "../../src/acpi/index.js";

/** Two segments; the first has a graphics unit and an include-all unit. */
export const fullTable: DmarTable = {
  hostAddressWidth: 46,
  interruptRemapping: true,
  x2apicOptOut: true,
  dmaControlOptIn: true,
  units: [
    { registerGpa: 0xfed90000, scopes: [{ type: "endpoint", path: "00:02.0" }] },
    {
      registerGpa: 0x3f_fff0_0000,
      registerByteLength: 0x10000,
      segment: 1,
      scopes: [{ type: "bridge", path: "40:01.0/02.3/1f.7" }],
    },
    {
      registerGpa: 0xfed91000,
      includeAll: true,
      scopes: [
        { type: "io-apic", ioApicId: 2, path: "f0:1f.0" },
        { type: "hpet", hpetNumber: 1, path: "00:1e.6" },
        { type: "namespace-device", deviceNumber: 7, path: "f0:16.0" },
      ],
    },
  ],
  reservedRegions: [{ gpa: 0x7b80_0000, byteLength: 0x480_0000, scopes: [{ type: "endpoint", path: "00:02.0" }] }],
  atsRootPorts: [{ scopes: [{ type: "bridge", path: "00:01.0" }] }, { segment: 1, allPorts: true }],
  affinities: [{ registerGpa: 0x3f_fff0_0000, proximityDomain: 3 }],
  namespaceDevices: [{ deviceNumber: 7, name: "\\_SB.PCI0.I2C1" }],
  integratedAtcs: [
    { atcRequired: true, scopes: [{ type: "endpoint", path: "00:02.0" }] },
    { scopes: [{ type: "endpoint", path: "00:0a.0" }] },
  ],
  deviceProperties: [
    {
      scopes: [
        { type: "endpoint", path: "00:02.0", properties: ["no-nested-translation", "device-tlb-required"] },
        { type: "namespace-device", deviceNumber: 7, path: "f0:16.0" },
      ],
    },
  ],
};
