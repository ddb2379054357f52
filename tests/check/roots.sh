# Debian systems in a directory, for tests/check/fresh and tests/check/pythons.

# Where Debian's archive is: where the guests' kernels come from (tests/vm/README.md).
debian_mirror() {
  PYTHONPATH=tests/vm python3 -c 'import apt; print(apt.archives()[0])'
}

# make_root SUITE DIRECTORY: what a container's image has, and what its engine adds.
make_root() {
  debootstrap --variant=minbase --keyring=/usr/share/keyrings/debian-archive-keyring.gpg \
    "$1" "$2" "$(debian_mirror)" >"$2.log" 2>&1 || { cat "$2.log"; return 1; }
  rm "$2.log"
  chmod 755 "$2"
  cp -L /etc/hosts /etc/resolv.conf "$2/etc"
  # How this machine reaches apt's and pip's servers: proxies, certificates.
  apt-config dump | grep '^Acquire::.*"[^"]*";$' >"$2/etc/apt/apt.conf.d/99machine"
  for file in /etc/pip.conf /etc/ssl/certs/ca-certificates.crt /usr/local/share/ca-certificates; do
    if [ -e "$file" ]; then
      mkdir -p "$2${file%/*}"
      cp -rL "$file" "$2${file%/*}"
    fi
  done
}

# in_root DIRECTORY COMMAND...: with mounts and processes that end with the command.
in_root() {
  unshare --mount --pid --fork --kill-child bash -c '
    mount -t proc proc "$0/proc" && mount --rbind /dev "$0/dev" && exec chroot "$0" "$@"' "$@"
}

install_packages() {
  in_root "$1" apt-get -q update
  DEBIAN_FRONTEND=noninteractive in_root "$1" \
    apt-get -q -y install --no-install-recommends "${@:2}"
}

# copy_checkout DIRECTORY: what git has, or would take.
copy_checkout() {
  mkdir -p "$1"
  git ls-files -z --cached --others --exclude-standard | tar -c --null -T - | tar -x -C "$1"
}
