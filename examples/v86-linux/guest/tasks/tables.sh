# The driver's own dump of its page tables, for the host to compare line by line.
dump=/sys/kernel/debug/iommu/intel/domain_translation_struct
[ -r "$dump" ] || { fact missing "$dump"; return 1; }
cat "$dump" >/tmp/dump
fact lines "$(wc -l </tmp/dump)"
# The kernel's messages go to the same serial line, in the middle of others: not now.
level=$(cut -f1 /proc/sys/kernel/printk)
echo 1 >/proc/sys/kernel/printk
echo "@@ table-begin"
cat /tmp/dump
echo "@@ table-end"
echo "$level" >/proc/sys/kernel/printk
