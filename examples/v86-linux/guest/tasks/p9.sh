# Writes a file through virtio-9p and reads it back. The host compares its own copy as well.
timeout 20 mount -t 9p -o trans=virtio,version=9p2000.L,cache=none host9p /p9 || return 1
head -c 300000 /dev/urandom >/tmp/sent.bin
timeout 60 cp /tmp/sent.bin /p9/sent.bin || return 1
fact sent "$(sha256sum /tmp/sent.bin | cut -d' ' -f1)"
fact received "$(sha256sum /p9/sent.bin | cut -d' ' -f1)"
umount /p9
