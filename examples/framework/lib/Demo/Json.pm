package Demo::Json;
# JSON out of hashes, lists, texts and whole numbers. perl-base has no JSON::PP.
use strict;
use warnings;

sub encode {
    my ($value, $indent) = @_;
    $indent //= 0;
    my ($outer, $inner) = ('  ' x $indent, '  ' x ($indent + 1));
    my $text;
    if (ref $value eq 'HASH') {
        my @members = map { $inner . quoted($_) . ': ' . encode($value->{$_}, $indent + 1) } sort keys %$value;
        $text = @members ? "{\n" . join(",\n", @members) . "\n$outer}" : '{}';
    } elsif (ref $value eq 'ARRAY') {
        my @items = map { $inner . encode($_, $indent + 1) } @$value;
        $text = @items ? "[\n" . join(",\n", @items) . "\n$outer]" : '[]';
    } elsif (!defined $value) {
        $text = 'null';
    } elsif ($value =~ /\A(?:0|-?[1-9][0-9]{0,14})\z/) {
        $text = $value;
    } else {
        $text = quoted($value);
    }
    return $indent ? $text : "$text\n";
}

sub quoted {
    my ($text) = @_;
    $text =~ s/([\\"])/\\$1/g;
    $text =~ s/([\x00-\x1f])/sprintf '\\u%04x', ord $1/ge;
    return "\"$text\"";
}

1;
