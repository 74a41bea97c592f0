#!/bin/sh
# The loopback lab's sudo: knows `reboot` and `true`, nothing else. It stands in MACHINE/bin/sudo, so its
# own path names the machine; MACHINE/sudo_asks (a file) makes it ask for a password, as a real one would.
machine=${0%/bin/sudo}
list=
while [ $# -gt 0 ]; do
  case $1 in
    -n | --non-interactive) shift ;;
    -l | --list) list=yes; shift ;;
    -V | --version) echo "Sudo version 0 (autoperf lab)"; exit 0 ;;
    --) shift; break ;;
    -*) echo "sudo: the lab's sudo does not know $1" >&2; exit 1 ;;
    *) break ;;
  esac
done
if [ -e "$machine/sudo_asks" ]; then
  echo "sudo: a password is required" >&2
  exit 1
fi
command=${1##*/}
[ $# -gt 0 ] && shift
case "$command $*" in
  " ") [ "$list" ] && echo "    (root) NOPASSWD: /usr/bin/systemctl reboot"; [ "$list" ] ; exit ;;
  "true ") exit 0 ;;
  "reboot " | "reboot -f" | "reboot --force" | "systemctl reboot" | "systemctl reboot "* | \
    "systemctl --force reboot" | "systemctl --force --force reboot")
    if [ "$list" ]; then
      echo "/usr/bin/$command $*"
    else
      echo reboot >"$machine/control"
    fi
    ;;
  *) echo "sudo: a password is required" >&2; exit 1 ;;
esac
