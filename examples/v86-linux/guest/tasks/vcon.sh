# Says a line on the virtio console; the host listens on its end.
[ -c /dev/hvc0 ] || return 1
echo "virtio console over the IOMMU" >/dev/hvc0
