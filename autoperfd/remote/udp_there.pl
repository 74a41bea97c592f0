# What udp_there.py does, for a machine without python3. Nothing but modules that perl itself brings.
use strict;
use Socket;

my ($nonce, $port, $secs, $place, @addresses) = @ARGV;
my $group = "239.255.0.1";

sub opened { # ADDRESS PORT SHARED: a socket bound there; undef where that cannot be
    my ($address, $number, $shared) = @_;
    socket(my $one, PF_INET, SOCK_DGRAM, 17) or return undef;
    setsockopt($one, SOL_SOCKET, SO_REUSEADDR, pack("i", 1)) if $shared;
    return bind($one, sockaddr_in($number, inet_aton($address))) ? $one : undef;
}

my $here = $addresses[$place];
my $sender = opened($here, 0);
if (!$sender) { # the controller knows it by another machine's address
    $here = "0.0.0.0";
    $sender = opened($here, 0);
}
my %ears = (unicast => opened($here, $port), group => opened($group, $port, 1));
my ($if, $ttl, $join) = (32, 33, 35); # IP_MULTICAST_IF, IP_MULTICAST_TTL and IP_ADD_MEMBERSHIP of Linux
if ($ears{group} && !setsockopt($ears{group}, 0, $join, inet_aton($group) . inet_aton($here))) {
    $ears{group} = undef;
}
if ($sender) {
    setsockopt($sender, 0, $ttl, pack("i", 1));
    setsockopt($sender, 0, $if, inet_aton($here));
}
my @others = grep { $_ != $place } 0 .. $#addresses;
my %heard;
for my $turn (1 .. $secs * 4) {
    if ($sender) {
        send($sender, "$nonce $place unicast", 0, sockaddr_in($port, inet_aton($addresses[$_]))) for @others;
        send($sender, "$nonce $place group", 0, sockaddr_in($port, inet_aton($group)));
    }
    my $left = 0.25;
    while ($left > 0) {
        my $ready = "";
        for my $ear (grep { $_ } values %ears) { vec($ready, fileno($ear), 1) = 1; }
        (my $count, $left) = select($ready, undef, undef, $left);
        last if $count <= 0;
        for my $ear (grep { $_ } values %ears) {
            next unless vec($ready, fileno($ear), 1);
            my $text = "";
            recv($ear, $text, 200, MSG_DONTWAIT);
            for my $at (@others) {
                for my $kind (keys %ears) { $heard{"$at $kind"} = 1 if $text eq "$nonce $at $kind"; }
            }
        }
    }
}
for my $kind ("unicast", "group") {
    print "sends $kind\n" if $sender;
    print $ears{$kind} ? "hears" : "cannot", " $kind\n";
}
print "heard $_\n" for sort keys %heard;
