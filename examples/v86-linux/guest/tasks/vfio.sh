# Hands the DMA engine to user space and lets a program drive it.
device=0000:00:03.0
path=/sys/bus/pci/devices/$device
[ -e "$path" ] || { fact missing "$device"; return 1; }
echo vfio-pci >"$path/driver_override"
echo "$device" >/sys/bus/pci/drivers_probe
group=$(basename "$(readlink "$path/iommu_group")")
fact group "$group" "$(cat "/sys/kernel/iommu_groups/$group/type")"
/bin/vfio-exercise "/dev/vfio/$group" "$device" "${vfio_rounds:-200}"
