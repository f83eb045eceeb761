# What the kernel said about remapping; faults of this boot end up here.
dmesg | grep -i 'DMAR\|iommu' | head -n 60
fact dmar-faults "$(dmesg | grep -c 'fault addr')"
true
