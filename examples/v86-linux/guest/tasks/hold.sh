# Disk I/O that is in full swing when the host takes its snapshot ("@@ fact hold running").
mount -t ext2 /dev/sda /mnt || return 1
cd /mnt || return 1
fact original "$(sha256sum original.bin | cut -d' ' -f1)"
fact running
rounds=0
while [ "$rounds" -lt "${hold_rounds:-6}" ]; do
  rm -f hold.bin
  dd if=original.bin of=hold.bin bs=16k 2>/dev/null && sync && echo 3 >/proc/sys/vm/drop_caches
  fact copy "$(sha256sum hold.bin | cut -d' ' -f1)"
  rounds=$((rounds + 1))
done
fact rounds "$rounds"
cd /
umount /mnt
