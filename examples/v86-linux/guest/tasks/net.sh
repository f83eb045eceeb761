# Large pings over virtio-net: every byte that comes back is compared with what was sent.
ifconfig eth0 192.168.86.100 netmask 255.255.255.0 up || return 1
ping -c 5 -s 1200 -W 10 192.168.86.1 >/tmp/ping
fact replies "$(grep -c '1208 bytes from' /tmp/ping)"
ifconfig eth0 down
