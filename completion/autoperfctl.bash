# made by `make manual` from the tables the code runs on; change those
_autoperfctl() {
  local cur=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} command= words= experiments= files= word at
  COMPREPLY=()
  for ((at = 1; at < COMP_CWORD; at++)); do
    word=${COMP_WORDS[at]}
    case ${COMP_WORDS[at-1]} in --config | --runtime) continue ;; esac
    case $word in -*) ;; *) command=$word; break ;; esac
  done
  case $before in
    --config | --runtime | --output | --parquet) files=1 ;;
    --experiment) experiments=1 ;;
    *)
  case $command in
    '') words='status check submit convert list show why results report judge verify halt resume retry skip cancel doctor trust --config --runtime --version --help' ;;
    status) words='--instance --json --watch --config --runtime --help' ;;
    check) words='--instance --test --probe --json --config --runtime --help'; files=1 ;;
    submit) words='--instance --wait --config --runtime --help'; files=1 ;;
    convert) words='--instance --config --runtime --help'; files=1 ;;
    list) words='--instance --json --config --runtime --help' ;;
    show) words='--instance --json --config --runtime --help'; experiments=1 ;;
    why) words='--instance --experiment --json --config --runtime --help' ;;
    results) words='--instance --where --by --csv --parquet --rebuild --json --config --runtime --help'; experiments=1 ;;
    report) words='--instance --output --config --runtime --help'; experiments=1 ;;
    judge) words='--instance --test --json --config --runtime --help'; files=1 ;;
    verify) words='--instance --json --config --runtime --help'; experiments=1 ;;
    halt) words='--instance --config --runtime --help'; experiments=1 ;;
    resume) words='--instance --config --runtime --help'; experiments=1 ;;
    retry) words='--instance --failed --experiment --config --runtime --help' ;;
    skip) words='--instance --experiment --config --runtime --help' ;;
    cancel) words='--instance --config --runtime --help'; experiments=1 ;;
    doctor) words='--instance --send --json --config --runtime --help'; files=1 ;;
    trust) words='--instance --yes --config --runtime --help'; files=1 ;;
  esac ;;
  esac
  if [ -n "$experiments" ]; then
    while IFS= read -r word; do
      case $word in "$cur"*) COMPREPLY+=("$(printf %q "$word")") ;; esac
    done < <(autoperfctl list --json 2>/dev/null | sed -n 's/^      "name": "\(.*\)",$/\1/p')
  fi
  [ -z "$files" ] || compopt -o filenames 2>/dev/null
  while IFS= read -r word; do
    [ -z "$word" ] || COMPREPLY+=("$word")
  done < <(compgen -W "$words" -- "$cur"; [ -z "$files" ] || compgen -f -- "$cur")
}
complete -F _autoperfctl autoperfctl
