# Who is who: the kernel, the units, and every PCI function with its group and its domain type.
fact kernel "$(uname -r)"
for unit in /sys/class/iommu/*; do
  [ -e "$unit" ] || continue
  fact unit "$(basename "$unit")" cap="$(cat "$unit/intel-iommu/cap")" ecap="$(cat "$unit/intel-iommu/ecap")"
done
for device in /sys/bus/pci/devices/*; do
  group=$(basename "$(readlink "$device/iommu_group")")
  type=$(cat "/sys/kernel/iommu_groups/$group/type" 2>/dev/null)
  fact device "$(basename "$device")" "$(cat "$device/vendor"):$(cat "$device/device")" group="$group" type="$type"
done
true
