# Stand-in.
alias ovs=/usr/bin/ovs
