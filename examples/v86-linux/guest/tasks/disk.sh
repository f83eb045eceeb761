# Copies a file on the IDE disk and reads the copy back from the platters, not from the page cache.
mount -t ext2 /dev/sda /mnt || return 1
cd /mnt || return 1
fact original "$(sha256sum original.bin | cut -d' ' -f1)"
rm -f copy.bin
dd if=original.bin of=copy.bin bs=64k 2>/dev/null && sync && echo 3 >/proc/sys/vm/drop_caches
fact copy "$(sha256sum copy.bin | cut -d' ' -f1)"
fact bytes "$(stat -c %s copy.bin)"
cd /
umount /mnt
