package Demo::Ini;
# Files of `name = value` lines below `[section]` headers, as recipes write them.
use strict;
use warnings;

# Sections by name; lines before the first header are in section ''.
sub parse {
    my ($text) = @_;
    my ($section, %sections) = ('');
    for my $line (split /\r?\n/, $text) {
        next if $line =~ /\A\s*(?:[#;].*)?\z/;
        if ($line =~ /\A\s*\[([^\]]+)\]\s*\z/) {
            $section = $1;
            $sections{$section} //= {};
        } elsif ($line =~ /\A\s*([^=\s][^=]*?)\s*=\s*(.*?)\s*\z/) {
            $sections{$section}{$1} = $2;
        }
    }
    return \%sections;
}

sub read_file {
    my ($path) = @_;
    open my $file, '<', $path or die "cannot read $path: $!\n";
    local $/;
    return parse(scalar <$file>);
}

# The first line of a file, or `unknown`.
sub first_line {
    my ($path) = @_;
    open my $file, '<', $path or return 'unknown';
    my $line = <$file> // 'unknown';
    chomp $line;
    return $line;
}

1;
