#!/bin/bash
# The first process of a simulated container, in namespaces of its own: lays out the file system,
# joins the job's network, and becomes the entry point.
set -euo pipefail
host=$1 name=$2 address=$3
shift 3
mount -t tmpfs none "$host/opt"
mkdir "$host/opt/upper" "$host/opt/work"
mount -t overlay -o "lowerdir=/opt,upperdir=$host/opt/upper,workdir=$host/opt/work" none /opt
mkdir /opt/ml
mount --bind "$host/ml" /opt/ml
mount --bind "$host/hosts" /etc/hosts
mount -t tmpfs none /var/tmp
mount -o remount,bind,ro /
hostname "$name"
ip link set lo up
until ip link show eth0 >/dev/null 2>&1; do sleep 0.02; done
ip addr add "$address/24" dev eth0
ip link set eth0 up
cd /
mapfile -d '' -t environment <"$host/environment"
exec env -i "${environment[@]}" "$@"
