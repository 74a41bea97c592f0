# made by `make manual` from the tables the code runs on; change those
complete -c autoperfctl -f
complete -c autoperfctl -l instance -x -d 'the daemon autoperfd@NAME'
complete -c autoperfctl -n __fish_use_subcommand -a status -d 'what runs, how far, what failed, which machine is ill, whether anything is to be done'
complete -c autoperfctl -n '__fish_seen_subcommand_from status' -l json -d 'print JSON for a script'
complete -c autoperfctl -n '__fish_seen_subcommand_from status' -l watch -d 'show it again every two seconds, until Ctrl-C'
complete -c autoperfctl -n __fish_use_subcommand -a check -d 'look at an experiment file: problems, number of tests, hours, data, who runs what; needs no daemon'
complete -c autoperfctl -n '__fish_seen_subcommand_from check' -l test -d 'show the command lines of this test instead of the first'
complete -c autoperfctl -n '__fish_seen_subcommand_from check' -l probe -d 'let the daemon look at the machines, too; exit status 1 where one is not fit'
complete -c autoperfctl -n '__fish_seen_subcommand_from check' -l json -d 'print JSON for a script'
complete -c autoperfctl -n '__fish_seen_subcommand_from check' -F
complete -c autoperfctl -n __fish_use_subcommand -a submit -d 'check a file, put it into the queue and say whether it was accepted'
complete -c autoperfctl -n '__fish_seen_subcommand_from submit' -l wait -d 'how long to wait for the verdict (default 30)'
complete -c autoperfctl -n '__fish_seen_subcommand_from submit' -F
complete -c autoperfctl -n __fish_use_subcommand -a convert -d 'write an experiment file of AutoPerf (JSON or TOML) as one of ours; what has no place here is said'
complete -c autoperfctl -n '__fish_seen_subcommand_from convert' -F
complete -c autoperfctl -n __fish_use_subcommand -a list -d 'all experiments and what lately came through the queue'
complete -c autoperfctl -n '__fish_seen_subcommand_from list' -l json -d 'print JSON for a script'
complete -c autoperfctl -n __fish_use_subcommand -a show -d 'one experiment in full'
complete -c autoperfctl -n '__fish_seen_subcommand_from show' -l json -d 'print JSON for a script'
complete -c autoperfctl -n '__fish_seen_subcommand_from show' -a "(autoperfctl list --json 2>/dev/null | string match -rg '^      \"name\": \"(.*)\",\$')"
complete -c autoperfctl -n __fish_use_subcommand -a why -d 'what happened to a test: attempts, evidence, decisions, what is left and what comes next'
complete -c autoperfctl -n '__fish_seen_subcommand_from why' -l experiment -d 'the experiment, where several have such a test'
complete -c autoperfctl -n '__fish_seen_subcommand_from why' -l json -d 'print JSON for a script'
complete -c autoperfctl -n __fish_use_subcommand -a results -d 'where the results of an experiment lie, its tests and their figures, chosen and grouped'
complete -c autoperfctl -n '__fish_seen_subcommand_from results' -l where -d 'only tests of which that holds: = != < <= > >=; may be repeated'
complete -c autoperfctl -n '__fish_seen_subcommand_from results' -l by -d 'group by these columns, with counts of what failed and is missing'
complete -c autoperfctl -n '__fish_seen_subcommand_from results' -l csv -d 'print CSV with all figures'
complete -c autoperfctl -n '__fish_seen_subcommand_from results' -l parquet -d 'write the tests that were chosen to a Parquet file'
complete -c autoperfctl -n '__fish_seen_subcommand_from results' -l rebuild -d 'have ess.csv and summary.csv written anew from the memory'
complete -c autoperfctl -n '__fish_seen_subcommand_from results' -l json -d 'print JSON for a script'
complete -c autoperfctl -n '__fish_seen_subcommand_from results' -a "(autoperfctl list --json 2>/dev/null | string match -rg '^      \"name\": \"(.*)\",\$')"
complete -c autoperfctl -n __fish_use_subcommand -a report -d 'an experiment\'s results as one HTML file to send on: completeness, plots, failures, what to be careful about'
complete -c autoperfctl -n '__fish_seen_subcommand_from report' -l output -d 'the file to write (default <experiment>-report.html in the current folder)'
complete -c autoperfctl -n '__fish_seen_subcommand_from report' -a "(autoperfctl list --json 2>/dev/null | string match -rg '^      \"name\": \"(.*)\",\$')"
complete -c autoperfctl -n __fish_use_subcommand -a judge -d 'judge result files of Perftest in any folder, or one of our archives, as a test of ours would be'
complete -c autoperfctl -n '__fish_seen_subcommand_from judge' -l test -d 'the test\'s name, where no folder\'s name says it'
complete -c autoperfctl -n '__fish_seen_subcommand_from judge' -l json -d 'print JSON for a script'
complete -c autoperfctl -n '__fish_seen_subcommand_from judge' -F
complete -c autoperfctl -n __fish_use_subcommand -a verify -d 'read memory, sheets and archives of an experiment independently and say what does not fit'
complete -c autoperfctl -n '__fish_seen_subcommand_from verify' -l json -d 'print JSON for a script'
complete -c autoperfctl -n '__fish_seen_subcommand_from verify' -a "(autoperfctl list --json 2>/dev/null | string match -rg '^      \"name\": \"(.*)\",\$')"
complete -c autoperfctl -n __fish_use_subcommand -a halt -d 'stop an experiment, ending its running test; without a name hold everything, new files included'
complete -c autoperfctl -n '__fish_seen_subcommand_from halt' -a "(autoperfctl list --json 2>/dev/null | string match -rg '^      \"name\": \"(.*)\",\$')"
complete -c autoperfctl -n __fish_use_subcommand -a resume -d 'let a halted experiment go on; without a name all of them, and lift the hold'
complete -c autoperfctl -n '__fish_seen_subcommand_from resume' -a "(autoperfctl list --json 2>/dev/null | string match -rg '^      \"name\": \"(.*)\",\$')"
complete -c autoperfctl -n __fish_use_subcommand -a retry -d 'try a test again that was given up, or all of them'
complete -c autoperfctl -n '__fish_seen_subcommand_from retry' -l failed -d 'all tests that were given up'
complete -c autoperfctl -n '__fish_seen_subcommand_from retry' -l experiment -d 'the experiment, where several have such a test'
complete -c autoperfctl -n __fish_use_subcommand -a skip -d 'leave a test out'
complete -c autoperfctl -n '__fish_seen_subcommand_from skip' -l experiment -d 'the experiment, where several have such a test'
complete -c autoperfctl -n __fish_use_subcommand -a cancel -d 'end an experiment for good; its results stay'
complete -c autoperfctl -n '__fish_seen_subcommand_from cancel' -a "(autoperfctl list --json 2>/dev/null | string match -rg '^      \"name\": \"(.*)\",\$')"
complete -c autoperfctl -n __fish_use_subcommand -a doctor -d 'what commonly goes wrong on a bench, each with its remedy: daemon, unit, disk, queue, keys, pings, clock'
complete -c autoperfctl -n '__fish_seen_subcommand_from doctor' -l send -d 'send a test message to the webhook'
complete -c autoperfctl -n '__fish_seen_subcommand_from doctor' -l json -d 'print JSON for a script'
complete -c autoperfctl -n '__fish_seen_subcommand_from doctor' -F
complete -c autoperfctl -n __fish_use_subcommand -a trust -d 'show the host keys that machines offer and, once you agree, trust them'
complete -c autoperfctl -n '__fish_seen_subcommand_from trust' -l yes -d 'do not ask'
complete -c autoperfctl -n '__fish_seen_subcommand_from trust' -F
