# Many small transfers, so that the driver maps and unmaps many times.
mount -t ext2 /dev/sda /mnt || return 1
cd /mnt || return 1
rounds=0
while [ "$rounds" -lt "${load_rounds:-4}" ]; do
  rm -f load.bin
  dd if=original.bin of=load.bin bs=4k 2>/dev/null && sync && echo 3 >/proc/sys/vm/drop_caches
  cmp original.bin load.bin || return 1
  rounds=$((rounds + 1))
done
fact rounds "$rounds"
cd /
umount /mnt
