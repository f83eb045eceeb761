# The driver's own dump of its page tables, for the host to compare line by line.
# Long runs of a pass-through or static mapping would drown the serial line: hence the limit.
dump=/sys/kernel/debug/iommu/intel/domain_translation_struct
[ -r "$dump" ] || { fact missing "$dump"; return 1; }
cat "$dump" >/tmp/dump
fact lines "$(wc -l </tmp/dump)"
echo "@@ table-begin"
head -n 20000 /tmp/dump
echo "@@ table-end"
