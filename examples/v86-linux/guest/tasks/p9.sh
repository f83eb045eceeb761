# Writes a file through virtio-9p and reads it back. The host compares its own copy as well.
# A mount whose device never answers cannot be killed: it is left behind in the background.
mount -t 9p -o trans=virtio,version=9p2000.L,cache=none host9p /p9 &
tries=0
while ! grep -q ' /p9 9p ' /proc/mounts; do
  tries=$((tries + 1))
  [ "$tries" -le 40 ] || return 1
  sleep 0.2
done
head -c 300000 /dev/urandom >/tmp/sent.bin
cp /tmp/sent.bin /p9/sent.bin || return 1
fact sent "$(sha256sum /tmp/sent.bin | cut -d' ' -f1)"
fact received "$(sha256sum /p9/sent.bin | cut -d' ' -f1)"
umount /p9
