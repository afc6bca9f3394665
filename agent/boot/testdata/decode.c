/* decode ROOM [ROUNDS]: the decoder on a machine with a libc, so that sanitizers can watch it: frames on standard input,
 * each behind its length, and for each its content on standard output, behind its length or -1 where the frame is damaged;
 * lengths are of four bytes, this machine's way round. Both areas are exactly as large as they may be used.
 * With ROUNDS it first decodes each frame that often, each time cut or changed behind its header at places of its own choice. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../lz4.h"

static unsigned long seed = 1;

static unsigned long dice(unsigned long n) /* of n sides, by an xorshift generator */
{
	seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
	return seed % n;
}

static void spoil(const uchar *frame, unsigned long n, uchar *out, unsigned long room)
{
	unsigned long cut = dice(4) ? n : 16 + dice(n - 16);
	uchar *bad = malloc(cut);
	if (!bad)
		abort();
	memcpy(bad, frame, cut);
	for (unsigned long i = dice(8) + 1; i && cut > 16; i--)
		bad[15 + dice(cut - 15)] = (uchar)(dice(2) ? dice(256) : dice(2) ? 255 : 0);
	lz4(bad, cut, out, room);
	free(bad);
}

int main(int argc, char **argv)
{
	unsigned long room = argc > 1 ? strtoul(argv[1], 0, 10) : 0;
	unsigned n;
	while (fread(&n, sizeof n, 1, stdin) == 1) {
		uchar *in = malloc(n ? n : 1), *out = malloc(room ? room : 1);
		if (!in || !out || fread(in, 1, n, stdin) != n)
			return 2;
		for (long rounds = argc > 2 ? atol(argv[2]) : 0; rounds > 0 && n > 16; rounds--)
			spoil(in, n, out, room);
		int size = (int)lz4(in, n, out, room);
		fwrite(&size, sizeof size, 1, stdout);
		if (size > 0)
			fwrite(out, 1, (unsigned long)size, stdout);
		free(in), free(out);
	}
	return 0;
}
