import { Access, BackendIommu, sourceId, Translation } from "@iommu-kit/iommu-core";
import { FakeMemory, SimpleBackend, SimpleDomain } from "@iommu-kit/iommu-core/testing";
import { CacheNotifier } from "@iommu-kit/notifier-cache";

const backend = new SimpleBackend(); // your unit: new VtdIommu({ memory, msi })
const unit = new BackendIommu({ backend, memory: new FakeMemory() });
const tables = new SimpleDomain("guest tables");
const space = unit.addressSpace(sourceId(0, 3, 0));
void backend.assign(space.sourceId, tables);

const cache = new CacheNotifier(space, { entries: 256 });
space.attach(cache);

tables.map(0x100, 16, 0x5000, Access.readWrite); // frames: IOVA 0x100000 -> GPA 0x5000000
const out = new Translation();
cache.translate(0x104, Access.read, out); // a miss: asks the unit, out.gpaPfn === 0x5004
cache.translate(0x104, Access.read, out); // a hit
tables.unmap(0x100, 16);
void backend.invalidate(tables); // the guest invalidates: the cache is empty
console.log(cache.translate(0x104, Access.read, out), cache.statistics); // false, { hits: 1, misses: 2, ... }
