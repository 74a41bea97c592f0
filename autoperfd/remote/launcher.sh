# autoperfd on a machine: a verb loop on standard input, and the launcher that outlives the link.
#
# POSIX sh (dash, busybox, bash). Nothing is installed: this text arrives on standard input of a constant
# command, stays in $AUTOPERF_SH, and `/bin/sh -c 'eval "$AUTOPERF_SH"' autoperf VERB ...` runs a verb in a
# process of its own. Requests are `VERB BYTES TOKEN...` and that many bytes of NUL-separated values, or
# `VERB -COUNT TOKEN...` and that many values, a line each, where none holds a newline: no program is needed to read
# those. Values become positional parameters, the former through xargs, and are never read as shell text. Tokens are
# numbers, hex digits and file names of [A-Za-z0-9._-] that the controller made. Answers are `answer STATUS BYTES`
# and text.
#
# One attempt is one folder, ~/.autoperf/INSTALLATION/UID (`$d` below):
#   files/     the participants' working folder, all they write
#   boot0      boot id at the start                    end          boot id and free space at the end; becomes `done`
#   preparing  pid and start time of verb prepare      launcher     the same of the launcher
#   pid.N      pid and start time of participant N     rec.N        its exit status and the uptime it ended at
#   why.N      what ended it, where it was not itself  started      clock and uptime of the common start
#   watch0     a look at the machine before the start  watch1       the same when all participants had ended
#   events     FIFO, the launcher's only input         start        FIFO, its opening starts the participants
#   ready ack pubs all hash    FIFOs that tell a waiting verb; every end opens them `<>`, so none is missed
# Files that matter when the disk is full are written whole at first and overwritten in place.

LC_ALL=C
export LC_ALL
umask 077
set -f
newline='
'
blanks=$IFS

boot_id() { read -r boot_id <"${AUTOPERF_BOOT_ID_FILE:-/proc/sys/kernel/random/boot_id}" || boot_id=-; }
self() { read -r self rest </proc/self/stat; } # $$ is the parent's in a subshell
uptime() { read -r uptime rest </proc/uptime || uptime=0; }

now() { # sets $clock and $uptime to one moment: looked at anew where the machine stood still in between
  for try in 1 2 3; do
    uptime
    since=$uptime
    clock=$(date +%s.%N)
    uptime
    # A 1 in front of the hundredths, for 08 would be octal.
    [ $((1${uptime#*.} - 1${since#*.} + (${uptime%.*} - ${since%.*}) * 100)) -gt 5 ] || return 0
  done
}

birth() { # PID: sets $birth to its start time, field 22 after the name, which may hold anything
  birth=
  { read -r birth <"/proc/$1/stat"; } 2>/dev/null || return 1
  birth=${birth##*") "}
  case $birth in Z* | X*) birth= ; return 1 ;; esac
  set -- $birth
  birth=${20-}
}

alive() { # FILE of the attempt $d with pid and start time: is that very process there, since that boot?
  alive_pid= alive_birth= before=-
  { read -r before rest <"$d/boot0"; } 2>/dev/null
  boot_id
  [ "$before" = "$boot_id" ] || return 1
  { read -r alive_pid alive_birth rest <"$d/$1"; } 2>/dev/null || return 1
  birth "$alive_pid" && [ "$birth" = "$alive_birth" ]
}

notify() { # FIFO: wakes every waiting verb, those whose link is long gone included
  printf '\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n' 1<>"$d/$1"
}

marked() { # MARK BUT...: sets $marked to the processes whose environment has MARK and none of the others
  set +f
  marked=$(grep -lszF -e "$1" /proc/[0-9]*/environ) # -z: busybox sees nothing behind a NUL without it
  set -f
  shift
  [ -n "$marked" ] && [ "$#" -gt 0 ] || return 0
  found=$marked marked=
  for path in $found; do
    for but in "$@"; do grep -qszF -e "$but" "$path" && continue 2; done
    marked="$marked $path"
  done
}

kill_marked() {
  for path in $marked; do
    path=${path#/proc/}
    kill -s KILL "${path%/environ}" 2>/dev/null
  done
}

end_marked() { # MARK BUT...: ends those processes, launchers included, and waits until they are gone
  tries=0
  while marked "$@" && [ -n "$marked" ] && [ "$tries" -lt 60 ]; do
    kill_marked
    tries=$((tries + 1))
    sleep 0.05 || sleep 1
  done
  [ -z "$marked" ]
}

end_groups() { # SIGNAL WHY: ends the participants that have not ended, noting why
  at=0
  while [ "$at" -lt "$count" ]; do
    status=
    { read -r status rest <"$d/rec.$at"; } 2>/dev/null
    if [ "$status" = - ] && alive "pid.$at"; then
      read -r why rest <"$d/why.$at"
      [ "$why" = - ] && printf '%-20s\n' "$2" 1<>"$d/why.$at"
      kill -s "$1" -- "-$alive_pid" 2>/dev/null
    fi
    at=$((at + 1))
  done
}

recorded() { # is the end of all $count participants recorded?
  at=0
  while [ "$at" -lt "$count" ]; do
    status=
    { read -r status rest <"$d/rec.$at"; } 2>/dev/null
    [ "$status" != - ] || return 1
    at=$((at + 1))
  done
}

end_attempt() { # ends the launcher and the participants of the attempt $d as far as it recorded them
  count=0
  { read -r count rest <"$d/count"; } 2>/dev/null
  alive launcher && kill -s KILL "$alive_pid"
  end_groups KILL sweep
}

remove() { # ends whatever is left of the attempt $d and removes its folder
  end_attempt
  end_marked "AUTOPERF_FOLDER=$d" || return 1
  forget
}

forget() { # removes the folder of the attempt $d, of which nothing runs any more
  for fifo in pubs all ack ready; do [ -p "$d/$fifo" ] && notify "$fifo"; done
  rm -rf "$d"
}

sweep_others() { # INSTALLATION KEEP...: ends and removes all attempts but those; sets $left to what resisted
  home=$HOME/.autoperf/$1
  shift
  keep=" $* "
  left=
  set +f
  for d in "$home"/*; do
    case $keep in *" ${d##*/} "*) ;; *) [ -d "$d" ] && end_attempt ;; esac
  done
  for uid in $keep; do
    set -- "$@" "AUTOPERF_FOLDER=$home/$uid"
    shift
  done
  # One look finds all that is left, of attempts whose folder is gone too.
  end_marked "AUTOPERF_FOLDER=$home/" "$@" || name_resisting
  set +f
  for d in "$home"/*; do
    case "$keep$left " in *" ${d##*/} "*) ;; *) [ -d "$d" ] && forget ;; esac
  done
  set -f
}

name_resisting() { # sets $left to the attempts below $home whose processes ($marked) did not end
  for path in $marked; do
    resisting=$(tr '\0' '\n' <"$path" | grep -sF "AUTOPERF_FOLDER=$home/" | head -n 1)
    resisting=${resisting##*/}
    case "$left " in *" $resisting "*) ;; *) left="$left $resisting" ;; esac
  done
}

free_kb() { # FOLDER: sets $free_kb, "-" where nobody knows
  set -- $(df -Pk "$1") # seven words of headings stand in front
  free_kb=${11:--}
}

free_space() { # FOLDER
  free_kb "$1"
  [ "$free_kb" = - ] || printf 'free_kb %s\n' "$free_kb"
}

comm_of() { # PATH: sets $comm to what the kernel calls a process of that executable
  comm=${1##*/}
  rest=${comm#???????????????}
  [ "$rest" = "$comm" ] || comm=${comm%"$rest"} # where it is shorter, all of it would be cut off
}

watch() { # COMMS: a look at what may disturb a test, as far as the machine tells; COMMS: a name of processes a line
  { read -r heat rest </sys/class/thermal/thermal_zone0/temp; } 2>/dev/null && printf 'millidegrees %s\n' "$heat"
  if { read -r bits rest </sys/devices/platform/soc/soc:firmware/get_throttled; } 2>/dev/null; then
    printf 'throttled %s\n' "$bits"
  elif command -v vcgencmd >/dev/null; then
    printf 'throttled %s\n' "$(vcgencmd get_throttled </dev/null 2>/dev/null | head -c 100)"
  fi
  errors= number=
  set +f
  for path in /sys/class/net/*/statistics/[rt]x_errors; do
    case $path in /sys/class/net/lo/*) continue ;; esac
    { read -r number rest <"$path"; } 2>/dev/null && errors=$((${errors:-0} + number))
  done
  [ -z "$errors" ] || printf 'link_errors %s\n' "$errors"
  for path in $(grep -lsxF -e "$1" /proc/[0-9]*/comm); do
    path=${path%/comm}
    grep -qszF AUTOPERF_FOLDER= "$path/environ" && continue # of an attempt
    { read -r comm <"$path/comm"; } 2>/dev/null && printf 'foreign %s %s\n' "${path#/proc/}" "$comm"
  done
  set -f
  [ -s /run/utmp ] && command -v who >/dev/null || return 0
  IFS=$newline
  set -- $(who 2>/dev/null </dev/null)
  IFS=$blanks
  for line in "$@"; do printf 'user %s\n' "$line"; done
}

describe() { # prints all that is known of the attempt $d
  boot_id
  uptime
  if [ ! -d "$d" ]; then
    printf 'state absent\nboot %s\n' "$boot_id"
    return
  fi
  state=lost count=0 npubs=0
  if [ -e "$d/done" ]; then
    state=done
  elif alive launcher; then
    if [ -e "$d/started" ]; then state=running; else state=parked; fi
  elif alive preparing; then
    state=starting
  elif [ ! -e "$d/started" ]; then
    state=never
  fi
  { read -r count rest <"$d/count"; } 2>/dev/null
  before=- after=- reason=- clock=- released=- free_kb=-
  { read -r before rest <"$d/boot0"; } 2>/dev/null
  { read -r after reason free_kb rest <"$d/done"; } 2>/dev/null
  { read -r clock released rest <"$d/started"; } 2>/dev/null
  [ "$state" = done ] && [ "$released" = - ] && state=never
  printf 'state %s\nboot %s\nbefore %s\nafter %s\nreason %s\nuptime %s\nstarted %s %s\n' \
    "$state" "$boot_id" "$before" "$after" "$reason" "$uptime" "$clock" "$released"
  at=0
  while [ "$at" -lt "$count" ]; do
    status=- ended=- why=-
    { read -r status ended rest <"$d/rec.$at"; } 2>/dev/null
    { read -r why rest <"$d/why.$at"; } 2>/dev/null
    printf 'rec %s %s %s %s\n' "$at" "$status" "$ended" "$why"
    at=$((at + 1))
  done
  for at in 0 1; do
    [ -r "$d/watch$at" ] || continue
    while read -r rest; do printf 'watch%s %s\n' "$at" "$rest"; done <"$d/watch$at"
  done
  case $free_kb in '' | -) free_kb "$d" ;; esac # as it was at the end, where that was noted
  [ "$free_kb" = - ] || printf 'free_kb %s\n' "$free_kb"
}

attempt() { d=$HOME/.autoperf/$1/$2; }

state() { # INSTALLATION UID
  attempt "$1" "$2"
  describe
}

sweep() { # INSTALLATION KEEP...
  sweep_others "$@"
  printf 'swept%s\n' "$left"
}

prepare() { # INSTALLATION UID DEADLINE STOP HARD PARKED LIMIT LOG PARTICIPANTS VALUES value...
  installation=$1 uid=$2 values=${10}
  if [ $(($# - 10)) -ne "$values" ]; then
    printf 'failed too-long\n'
    return
  fi
  sweep_others "$installation" "$uid"
  if [ -n "$left" ]; then
    printf 'failed leftovers%s\n' "$left"
    return
  fi
  attempt "$installation" "$uid"
  if [ -d "$d" ]; then
    found=$(describe)
    case $found in
      "state never"*) remove ;; # nothing of it ever started
      *) printf 'found\n%s\n' "$found"; return ;;
    esac
  fi
  boot_id
  self
  birth "$self"
  if ! why=$({ [ -d "${d%/*}" ] || mkdir -p "${d%/*}"; } 2>&1 && mkdir "$d" 2>&1); then
    if [ -d "$d" ]; then printf 'found\nstate starting\n'; else printf 'failed folder %s\n' "$why"; fi
    return
  fi
  printf '%s\n' "$boot_id" >"$d/boot0"
  printf '%s %s\n' "$self" "$birth" >"$d/preparing"
  if ! why=$(cd "$d" && mkdir files 2>&1 && mkfifo events start ready ack pubs all hash 2>&1); then
    rm -rf "$d"
    printf 'failed folder %s\n' "$why"
    return
  fi
  exec 3<>"$d/ready"
  shift 2
  AUTOPERF_FOLDER=$d setsid /bin/sh -c 'eval "$AUTOPERF_SH"' autoperf launch "$d" "$installation" "$uid" "$@" \
    </dev/null >"$d/files/$6" 2>&1 3>&- &
  read -r answer <&3
  printf '%s\n' "$answer"
  # An empty answer comes from a sweep, which has removed the folder; there may be another by now.
  case $answer in taken* | failed*) rm -rf "$d" ;; esac
}

go() { # INSTALLATION UID: starts a prepared attempt; harmless when it has started
  attempt "$1" "$2"
  if [ ! -e "$d/started" ]; then
    if [ ! -d "$d" ]; then printf 'absent\n'; return; fi
    exec 3<>"$d/ack"
    if [ -e "$d/done" ] || ! alive launcher; then printf 'never\n'; return; fi
    printf 'go\n' 1<>"$d/events"
    read -r rest <&3
    exec 3>&-
  fi
  if [ -e "$d/started" ]; then
    read -r clock released <"$d/started"
    printf 'running %s\n' "$clock"
  else
    printf 'never\n'
  fi
}

await() { # INSTALLATION UID pubs|all: blocks until the publishers or all participants have ended
  attempt "$1" "$2"
  if [ -d "$d" ]; then
    exec 3<>"$d/$3"
    [ ! -e "$d/done" ] && alive launcher && read -r rest <&3
    exec 3>&-
  fi
  describe
}

end() { # INSTALLATION UID grace|sweep WAIT(0|1): ends the participants that are left
  attempt "$1" "$2"
  if [ -d "$d" ] && [ ! -e "$d/done" ]; then
    exec 3<>"$d/all"
    if alive launcher; then
      printf 'end %s\n' "$3" 1<>"$d/events"
      if [ "$4" = 1 ] && [ ! -e "$d/done" ]; then read -r rest <&3; fi
    else
      read -r count rest <"$d/count"
      end_groups KILL "$3"
      tries=0 # their supervisors record it, unless a reboot ended them too
      while [ "$before" = "$boot_id" ] && [ "$tries" -lt 20 ] && ! recorded; do
        tries=$((tries + 1))
        sleep 0.1 || sleep 1
      done
      end_marked "AUTOPERF_FOLDER=$d"
    fi
    exec 3>&-
  fi
  describe
}

clock() { date +%s.%N; }

boot() {
  boot_id
  printf '%s\n' "$boot_id"
}

reboot() {
  run=sudo
  command -v sudo >/dev/null || run=
  if out=$(${run:+sudo -n} systemctl reboot 2>&1 </dev/null); then
    printf 'accepted\n'
  else
    printf 'refused %s\n' "$out"
  fi
}

force_reboot() { # without systemd, where it hangs: file systems are not even written back
  run=sudo
  command -v sudo >/dev/null || run=
  if out=$(${run:+sudo -n} systemctl reboot --force --force 2>&1 </dev/null); then
    printf 'accepted\n'
  else
    printf 'refused %s\n' "$out"
  fi
}

hear() { # ADDRESS...: pings each once, all at the same time; an answer a line: its place and what ping ended with
  command -v ping >/dev/null || return 0
  at=0
  for address in "$@"; do
    {
      ping -c 1 -W 1 "$address" </dev/null >/dev/null 2>&1
      printf '%s %s\n' "$at" "$?"
    } &
    at=$((at + 1))
  done
  wait
}

udp() { # PYTHON PERL NONCE PORT SECS PLACE ADDRESS...: see udp_there.py; without python3 and perl it only sends
  python=$1 perl=$2 secs=$5
  shift 2
  udp_by python3 -I -S -c "$python" "$@" || udp_by perl -e "$perl" "$@" || udp_by bash -c '
    nonce=$1 port=$2 turns=$(($3 * 4)) place=$4
    shift 4
    while [ "$turns" -gt 0 ]; do
      at=0
      for address; do
        [ "$at" = "$place" ] || printf "%s %s unicast" "$nonce" "$place" >"/dev/udp/$address/$port"
        at=$((at + 1))
      done
      turns=$((turns - 1))
      sleep 0.25 || exit 1
    done
    printf "sends unicast\n"' bash "$@"
  return 0
}

udp_by() { # PROGRAM...: whether it is here and either did it or used up its time
  command -v "$1" >/dev/null || return 1
  timeout "$((secs + 2))" "$@" </dev/null 2>/dev/null
  case $? in 0 | 124 | 143) ;; *) return 1 ;; esac
}

stamp() { # PATH: what differs as soon as another file stands there or something was written into it
  found=$(ls -Lldic --full-time "$1" 2>/dev/null </dev/null || ls -Lldic "$1" 2>/dev/null </dev/null)
  set -- $found
  printf 'stamp %s-%s-%s-%s-%s\n' "${1-}" "${6-}" "${7-}" "${8-}" "${9-}"
}

fact() { [ -z "$2" ] || printf 'fact %s %s\n' "$1" "$2"; }

fact_in() { # FACT FILE: the file's first line, where there is one
  said=
  { read -r said <"$2"; } 2>/dev/null
  fact "$1" "$said"
}

chosen() { # FACT FILE: of the words in a file the one in brackets
  said=
  { read -r said <"$2"; } 2>/dev/null || return 0
  said=${said#*"["}
  fact "$1" "${said%%"]"*}"
}

survey() { # prints what a test's figures may depend on and the machine's account can read, "fact NAME VALUE" a line
  sys=/sys proc=/proc etc=/etc run=/run
  set -- $(uname -nrm)
  fact hostname "${1-}"
  fact kernel "${2-}"
  fact arch "${3-}"
  if [ -r "$etc/os-release" ]; then
    while read -r line; do
      case $line in PRETTY_NAME=*) fact os "${line#PRETTY_NAME=}" ;; esac
    done <"$etc/os-release"
  fi
  survey_cpu
  set --
  for name in core/rmem_default core/rmem_max core/wmem_default core/wmem_max core/netdev_max_backlog core/busy_poll \
    core/busy_read ipv4/udp_rmem_min ipv4/udp_wmem_min ipv4/ipfrag_high_thresh ipv4/ipfrag_time; do
    set -- "$@" "$proc/sys/net/$name"
  done
  # By a program: a shell may read byte by byte, and then the kernel gives the first byte of these files only.
  grep -sH '' "$@" | while IFS=: read -r path said; do
    name=${path#"$proc/sys/"}
    name=${name#net/}
    fact "net.${name%/*}.${name#*/}" "$said"
  done
  fact_in clocksource "$sys/devices/system/clocksource/clocksource0/current_clocksource"
  set +f
  said=$(grep -sh '^RebootWatchdogSec=' "$etc"/systemd/system.conf "$etc"/systemd/system.conf.d/*.conf | tail -n 1)
  set -f
  fact reboot_watchdog "${said#*=}"
  survey_clock
  survey_nics
}

survey_cpu() { # model, frequency, memory and the boot parameters that have to do with them
  fact cpus "$(getconf _NPROCESSORS_ONLN 2>/dev/null || nproc 2>/dev/null)"
  if [ -r "$sys/firmware/devicetree/base/model" ]; then
    fact board "$(tr -d '\0' <"$sys/firmware/devicetree/base/model" 2>/dev/null | head -c 200)"
  else
    fact_in board "$sys/class/dmi/id/product_name"
  fi
  model= implementer= part= microcode=
  while IFS=: read -r key line; do
    case $key in
      "model name"*) model=${line# } ;;
      microcode*) microcode=${line# } ;;
      "CPU implementer"*) implementer=${line# } ;;
      "CPU part"*) part=${line# } ;;
      "") break ;; # the first processor speaks for all
    esac
  done <"$proc/cpuinfo"
  fact cpu "${model:-${part:+implementer $implementer part $part}}"
  fact microcode "$microcode"
  governors=
  set +f
  for path in "$sys"/devices/system/cpu/cpufreq/policy*/scaling_governor; do
    { read -r line <"$path"; } 2>/dev/null || continue
    case " $governors " in *" $line "*) ;; *) governors="${governors:+$governors }$line" ;; esac
  done
  set -f
  fact governor "$governors"
  fact_in cpu_driver "$sys/devices/system/cpu/cpufreq/policy0/scaling_driver"
  fact_in cpu_max_khz "$sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq"
  fact_in turbo "$sys/devices/system/cpu/cpufreq/boost"
  fact_in no_turbo "$sys/devices/system/cpu/intel_pstate/no_turbo"
  fact_in smt "$sys/devices/system/cpu/smt/active"
  chosen transparent_hugepage "$sys/kernel/mm/transparent_hugepage/enabled"
  { read -r key kb rest <"$proc/meminfo"; } 2>/dev/null && fact memory_kb "$kb"
  line= given=
  { read -r line <"$proc/cmdline"; } 2>/dev/null
  for word in $line; do
    case $word in
      isolcpus=* | nohz_full=* | rcu_nocbs=* | irqaffinity=* | mitigations=* | nosmt* | idle=* | preempt=* | threadirqs | \
        *.max_cstate=* | cpufreq.* | cpuidle.* | intel_pstate=* | amd_pstate=* | maxcpus=* | nr_cpus=*)
        given="${given:+$given }$word" ;;
    esac
  done
  fact boot_parameters "$given"
}

survey_clock() { # what keeps the clock right, and how far off it says it is
  if [ -e "$run/chrony/chronyd.pid" ] && command -v chronyc >/dev/null; then
    IFS=,
    set -- $(timeout 2 chronyc -n -c tracking 2>/dev/null </dev/null)
    IFS=$blanks
    fact clock_sync "${2:+chrony, stratum ${3-}}"
    fact clock_offset "${5-}"
  elif [ -e "$run/systemd/timesync/synchronized" ]; then
    fact clock_sync systemd-timesyncd
  fi
}

survey_nics() { # the network interfaces that are up: where there are devices, those, else whatever stands for them
  ethtool=
  for at in ethtool /usr/sbin/ethtool /sbin/ethtool; do
    command -v "$at" >/dev/null && ethtool=$at && break
  done
  set --
  devices=
  while IFS=: read -r nic said; do # of this network; /sys of a container may show those of its host
    nic=${nic##* }
    case $said in '' | *\|*) continue ;; esac # the headings
    [ "$nic" != lo ] && [ -d "$sys/class/net/$nic" ] || continue
    set -- "$@" "$nic"
    [ -e "$sys/class/net/$nic/device" ] && devices=1
  done <"$proc/net/dev"
  for nic in "$@"; do
    path=$sys/class/net/$nic said=
    [ -z "$devices" ] || [ -e "$path/device" ] || continue
    { read -r said <"$path/operstate"; } 2>/dev/null
    case $said in up | unknown) ;; *) continue ;; esac
    said=$(readlink "$path/device/driver" 2>/dev/null) && fact "nic.$nic.driver" "${said##*/}"
    said=
    { read -r said <"$path/speed"; } 2>/dev/null
    case $said in -*) ;; *) fact "nic.$nic.mbps" "$said" ;; esac
    fact_in "nic.$nic.duplex" "$path/duplex"
    fact_in "nic.$nic.mtu" "$path/mtu"
    [ -z "$ethtool" ] || survey_ethtool
  done
}

survey_ethtool() { # what $ethtool tells of $nic
  tab='	' offloads= coalescing=
  IFS=$newline
  set -- $("$ethtool" -k "$nic" 2>/dev/null </dev/null)
  for line in "$@"; do
    case $line in
      "$tab"*) ;; # part of the one above
      *": on"*) offloads="${offloads:+$offloads }${line%%:*}" ;;
    esac
  done
  set -- $("$ethtool" -c "$nic" 2>/dev/null </dev/null)
  IFS=$blanks
  for line in "$@"; do
    case $line in
      "Adaptive RX:"* | rx-usecs:* | rx-frames:* | tx-usecs:*)
        case $line in *n/a*) ;; *) coalescing="${coalescing:+$coalescing, }$line" ;; esac ;;
    esac
  done
  fact "nic.$nic.offloads" "$offloads"
  fact "nic.$nic.coalescing" "$coalescing"
}

# INSTALLATION UID_OPEN START(0|1) SURVEY(0|1) REBOOT(0|1) SECS NENV executable name=value... argument...
probe() {
  installation=$1 open=$2 start=$3 survey=$4 reboots=$5 secs=$6 nenv=$7
  shift 7
  executable=$1
  shift
  case $executable in "~/"*) executable=$HOME/${executable#"~/"} ;; esac
  for need in cat date df env grep head ln ls mkdir mkfifo mv rm setsid sha256sum sleep timeout xargs; do
    command -v "$need" >/dev/null || printf 'needs %s\n' "$need"
  done
  boot_id
  printf 'boot %s\nclock %s\n' "$boot_id" "$(date +%s.%N)"
  set +f
  for d in "$HOME/.autoperf/$installation"/*; do
    [ -d "$d" ] && [ "${d##*/}" != "$open" ] && printf 'leftover %s\n' "${d##*/}"
  done
  busy=$HOME/.autoperf/busy
  if alive_busy "$busy" && [ "$busy_installation" != "$installation" ]; then
    printf 'busy %s %s\n' "$busy_installation" "$busy_uid"
  fi
  set -f
  d=$HOME/.autoperf # a disk of its own, maybe
  [ -d "$d" ] || d=$HOME
  free_space "$d"
  { read -r load rest </proc/loadavg; } && printf 'load %s\n' "$load"
  comm_of "$executable"
  watch "$comm"
  if [ ! -e "$executable" ]; then
    printf 'executable missing\n'
  elif [ ! -f "$executable" ] || [ ! -x "$executable" ]; then
    printf 'executable refused\n'
  else
    printf 'executable there\n'
    stamp "$executable"
  fi
  if [ "$reboots" = 1 ]; then
    if ! command -v sudo >/dev/null; then
      if [ "$(id -u)" = 0 ]; then printf 'reboot yes\n'; else printf 'reboot no there is no sudo\n'; fi
    elif out=$(sudo -n -l systemctl reboot 2>&1 </dev/null) || sudo -n true </dev/null; then
      printf 'reboot yes\n'
    else
      printf 'reboot no %s\n' "$(printf '%s' "$out" | head -c 300 | head -n 1)"
    fi
  fi
  [ "$survey" = 0 ] || survey
  [ "$start" = 1 ] || return 0
  if [ -n "${XDG_SESSION_ID-}" ] && [ "$(id -u)" != 0 ] && command -v loginctl >/dev/null; then
    printf 'logind %s\n' "$(loginctl show-session -p KillUserProcesses </dev/null | head -c 100)"
  fi
  [ -f "$executable" ] && [ -x "$executable" ] || return 0
  sum=$(sha256sum <"$executable") && fact executable_sha256 "${sum%% *}"
  # Standard output carries the program's text, so its exit status comes the other way round.
  at=0
  for value in "$@"; do
    [ "$at" = 0 ] && set -- env
    [ "$at" = "$nenv" ] && set -- "$@" /bin/sh -c 'exec "$@"' sh "$executable"
    set -- "$@" "$value"
    at=$((at + 1))
  done
  [ "$at" -gt "$nenv" ] || set -- "$@" /bin/sh -c 'exec "$@"' sh "$executable"
  [ "$1" = env ] || set -- env "$@"
  unset AUTOPERF_SH
  printf 'output\n'
  exec 4>&1
  status=$({ { cd "$HOME" && timeout -k 2 "$secs" "$@" </dev/null 3>&- 4>&-; printf '%s' "$?" >&3; } 2>&1 |
    head -c 65536 >&4; } 3>&1)
  printf '\nexit %s\n' "$status"
}

alive_busy() { # FILE: sets who holds the machine; false when nobody living does
  busy_installation= busy_uid= busy_pid= busy_birth= busy_boot=
  { read -r busy_installation busy_uid busy_pid busy_birth busy_boot rest <"$1"; } 2>/dev/null || return 1
  boot_id
  [ "$busy_boot" = "$boot_id" ] && birth "$busy_pid" && [ "$birth" = "$busy_birth" ]
}

take_machine() { # one attempt at a time on a machine, whoever's; a dead holder's mark is moved away
  busy=$HOME/.autoperf/busy
  printf '%s\n' "$installation $uid $$ $birth $boot_id" >"$d/busy"
  taken=1
  for try in 1 2 3; do
    if ln "$d/busy" "$busy" 2>/dev/null; then taken=0; break; fi
    if alive_busy "$busy"; then break; fi
    mv "$busy" "$busy.dead" 2>/dev/null
    if alive_busy "$busy.dead"; then ln "$busy.dead" "$busy"; fi # another was quicker: give it back
  done
  return "$taken"
}

timer() { # SECS EVENT: sets $timer
  (
    sleeper=
    trap '[ -n "$sleeper" ] && kill "$sleeper"; exit 0' TERM
    exec 6>&- 7>&- 8>&- 9>&-
    sleep "$1" 5>&- &
    sleeper=$!
    wait "$sleeper"
    printf '%s\n' "$2" >&5
  ) &
  timer=$!
}

guard() { # SECS: ends everything at the hard stop even when the launcher is gone; sets $guard
  (
    sleeper=
    trap '[ -n "$sleeper" ] && kill "$sleeper"; exit 0' TERM
    exec 6>&- 7>&- 8>&- 9>&-
    sleep "$1" 5>&- &
    sleeper=$!
    wait "$sleeper"
    end_groups KILL deadline
    printf 'hard\n' >&5
    notify pubs
    notify all
  ) &
  guard=$!
}

supervise() { # N ROLE STDOUT STDERR command...: starts one participant parked, waits for it, records its end
  number=$1 role=$2 out=$3 err=$4
  shift 4
  exec 6>&- 7>&- 9>&-
  ulimit -f "$limit" 2>/dev/null
  setsid env "$@" </dev/null >"$d/files/$out" 2>"$d/files/$err" 5>&- &
  pid=$!
  birth "$pid"
  printf '%s %s\n' "$pid" "$birth" >"$d/pid.$number"
  printf 'spawned\n' >&5
  wait "$pid" 2>/dev/null # some shells tell of signals there
  status=$?
  uptime
  kill -s KILL -- "-$pid" 2>/dev/null # what it left in its group
  printf '%-40s\n' "$status $uptime" 1<>"$d/rec.$number"
  printf 'ended %s\n' "$role" >&5
}

launch() { # FOLDER INSTALLATION UID DEADLINE STOP HARD PARKED LIMIT LOG PARTICIPANTS VALUES value...
  d=$1 installation=$2 uid=$3 deadline=$4 stop=$5 hard=$6 parked=$7 limit=$8 participants=${10}
  shift 11
  unset AUTOPERF_SH
  cd "$d/files" || exit 1
  exec 5<>"$d/events" 6<>"$d/pubs" 7<>"$d/all" 9<>"$d/ack"
  trap 'printf "failed launcher\n" 1<>"$d/ready"' EXIT
  boot_id
  birth $$
  printf '%s %s\n' "$$" "$birth" >"$d/launcher"
  if ! take_machine; then
    trap - EXIT
    printf 'taken %s %s\n' "$busy_installation" "$busy_uid" 1<>"$d/ready"
    exit 0
  fi
  printf '%-100s\n' - >"$d/end"
  printf '%s\n' "$participants" >"$d/count"

  count=0 pubs=0 field=0 missing=0 comms=
  for value in "$@"; do
    if [ "$missing" -eq 0 ]; then # five fields stand in front of each participant's own values
      field=$((field + 1))
      case $field in
        1) role=$value; set -- ;;
        2) out=$value ;;
        3) err=$value ;;
        4) nenv=$value ;;
        5) missing=$value ;;
      esac
      continue
    fi
    if [ "$#" -eq "$nenv" ]; then
      case $value in "~/"*) value=$HOME/${value#"~/"} ;; esac
      comm_of "$value"
      case $newline$comms in *"$newline$comm$newline"*) ;; *) comms=$comms$comm$newline ;; esac
      set -- "$@" "AUTOPERF_UID=$uid" "AUTOPERF_PARTICIPANT=$d" /bin/sh -c ': <"$0" && exec "$@"' "$d/start"
    fi
    set -- "$@" "$value"
    missing=$((missing - 1))
    [ "$missing" -eq 0 ] || continue
    printf '%-40s\n' - >"$d/rec.$count"
    printf '%-20s\n' - >"$d/why.$count"
    supervise "$count" "$role" "$out" "$err" "$@" &
    [ "$role" = pub ] && pubs=$((pubs + 1))
    count=$((count + 1)) field=0
    set --
  done
  if [ "$count" -ne "$participants" ] || ! read -r rest <"$d/why.$((count - 1))"; then
    end_groups KILL sweep
    rm -f "$HOME/.autoperf/busy"
    exit 1
  fi

  comms=${comms%"$newline"}
  watch "$comms" >"$d/watch0" # the participants are parked: none of them is what it will be yet
  timer "$parked" late
  live=$count spawned=0 released= reason=finished guard=
  while [ "$live" -gt 0 ]; do
    read -r event value <&5
    case $event in
      spawned)
        spawned=$((spawned + 1))
        if [ "$spawned" -eq "$count" ]; then
          trap - EXIT
          printf 'parked\n' 1<>"$d/ready"
        fi
        ;;
      go)
        if [ -z "$released" ]; then
          released=yes
          kill "$timer" 2>/dev/null
          now
          printf '%s %s\n' "$clock" "$uptime" >"$d/started"
          exec 8<>"$d/start" # every parked participant is released by this
          notify ack
          guard "$hard"
          timer "$deadline" deadline
        fi
        ;;
      ended)
        live=$((live - 1))
        if [ "$value" = pub ]; then
          pubs=$((pubs - 1))
          [ "$pubs" -eq 0 ] && notify pubs
        fi
        ;;
      late)
        timer=
        if [ -z "$released" ]; then
          reason=never
          end_groups KILL sweep
        fi
        ;;
      deadline | end)
        [ "$event" = end ] && kill $timer 2>/dev/null
        end_groups TERM "${value:-deadline}"
        timer "$stop" kill
        ;;
      kill)
        timer=
        end_groups KILL deadline
        ;;
      hard)
        guard=
        break
        ;;
    esac
  done
  kill $timer $guard 2>/dev/null
  marked "AUTOPERF_PARTICIPANT=$d" # what left its group but still carries the mark; the launcher's own do not
  kill_marked
  {
    now
    printf 'clock %s %s\n' "$clock" "$uptime"
    watch "$comms"
  } >"$d/watch1"
  boot_id
  free_kb "$d/files"
  printf '%-100s\n' "$boot_id $reason $free_kb" 1<>"$d/end"
  rm -f "$HOME/.autoperf/busy"
  mv "$d/end" "$d/done"
  notify ack
  notify pubs
  notify all
}

fetch() { # INSTALLATION UID LIMIT SLOW(0|1) NAME...: a manifest, the bytes of all files, then their hashes
  attempt "$1" "$2"
  limit=$3 slow=$4
  shift 4
  if ! cd "$d/files" || [ ! -p "$d/hash" ]; then
    printf 'answer 1 0\n'
    return
  fi
  listing=$(ls -lnd "$@")
  manifest= whole= part=
  IFS=$newline
  set -- $listing
  IFS=$blanks
  for line in "$@"; do # mode links uid gid size month day time name
    set -- $line
    case $1 in
      -*)
        size=$5
        while [ "$#" -gt 1 ]; do shift; done
        if [ ! -r "$1" ]; then
          manifest="${manifest}unreadable 0 $1$newline"
        elif [ "$size" -gt "$limit" ]; then
          manifest="${manifest}cut $limit $1$newline" part="$part $limit $1"
        elif [ "$slow" = 1 ]; then # it changed while it was read before
          manifest="${manifest}whole $size $1$newline" part="$part $size $1"
        else
          manifest="${manifest}whole $size $1$newline" whole="$whole $1"
        fi
        ;;
      *) manifest="${manifest}irregular 0 ${9-}$newline" ;;
    esac
  done
  # Hashing goes on beside the sending: on a slow processor it would cost as much again.
  exec 9<>"$d/hash"
  {
    [ -n "$whole" ] && sha256sum $whole
    set -- $part
    while [ "$#" -gt 1 ]; do
      printf '%s %s\n' "$(head -c "$1" "$2" | sha256sum | head -c 64)" "$2"
      shift 2
    done
    printf 'end\n'
  } >&9 &
  printf 'answer 0 %s\n%s' "${#manifest}" "$manifest"
  [ -n "$whole" ] && cat $whole
  set -- $part
  while [ "$#" -gt 1 ]; do
    head -c "$1" "$2"
    shift 2
  done
  hashes=
  while read -r line <&9 && [ "$line" != end ]; do hashes="$hashes$line$newline"; done
  printf 'answer 0 %s\n%s' "${#hashes}" "$hashes"
}

with_lines() { # COUNT VERB token...: the verb, with as many values more as lines are read
  lines=$1
  shift
  while [ "$lines" -gt 0 ]; do
    IFS= read -r value || return
    set -- "$@" "$value"
    lines=$((lines - 1))
  done
  "$@" </dev/null
}

serve() {
  exec 2>/dev/null
  printf '\nautoperf ready\n'
  while read -r verb size rest; do
    case $verb in
      fetch)
        (fetch $rest)
        continue
        ;;
      state | sweep | go | await | end | boot | clock | reboot | force_reboot) out=$("$verb" $rest) ;;
      prepare | probe | hear | udp)
        case $size in
          -*) out=$(with_lines "${size#-}" "$verb" $rest) ;;
          *)
            out=$(head -c "$size" | xargs -0 -x -n 100000 -s 1900000 \
              /bin/sh -c 'eval "$AUTOPERF_SH"' autoperf "$verb" $rest)
            ;;
        esac
        ;;
      *) out= ; false ;;
    esac
    printf 'answer %s %s\n%s' "$?" "${#out}" "$out"
  done
}

case ${1-serve} in
  serve) serve ;;
  prepare | probe | hear | udp | launch) "$@" ;;
esac
