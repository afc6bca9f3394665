/*
 * lz4.h: decodes one LZ4 frame (lz4_Frame_format.md and lz4_Block_format.md, version 1.6.x), whole and in memory. The
 * frame must say how long its content is; its checksums of header and content are checked, a block's own is passed over.
 *
 * It must never read or write outside the two areas it is given, whatever the bytes are, allocate, or make a system call.
 */
#ifndef STEPIN_LZ4_H
#define STEPIN_LZ4_H

typedef unsigned char uchar;

static unsigned le32(const uchar *p)
{
	return p[0] | (unsigned)p[1] << 8 | (unsigned)p[2] << 16 | (unsigned)p[3] << 24;
}

static unsigned rotate(unsigned x, int by) { return x << by | x >> (32 - by); }

/* xxh32 is the frame's checksum, with seed 0 (xxhash_spec.md, version 0.2.0). */
static unsigned xxh32(const uchar *p, unsigned long n)
{
	const unsigned p1 = 2654435761u, p2 = 2246822519u, p3 = 3266489917u, p4 = 668265263u, p5 = 374761393u;
	unsigned v[4] = { p1 + p2, p2, 0, 0 - p1 }, h = p5;
	const uchar *end = p + n;
	if (n >= 16) {
		for (; end - p >= 16; p += 16)
			for (int i = 0; i < 4; i++)
				v[i] = rotate(v[i] + le32(p + 4 * i) * p2, 13) * p1;
		h = rotate(v[0], 1) + rotate(v[1], 7) + rotate(v[2], 12) + rotate(v[3], 18);
	}
	h += (unsigned)n;
	for (; end - p >= 4; p += 4)
		h = rotate(h + le32(p) * p3, 17) * p4;
	for (; p < end; p++)
		h = rotate(h + *p * p5, 11) * p1;
	h = (h ^ h >> 15) * p2;
	h = (h ^ h >> 13) * p3;
	return h ^ h >> 16;
}

/* more adds to *n the bytes that continue a length of 15; 0 when the input ends before they do. */
static int more(const uchar **in, const uchar *end, unsigned long *n)
{
	unsigned c = 255;
	while (c == 255) {
		if (*in == end)
			return 0;
		c = *(*in)++;
		*n += c;
	}
	return 1;
}

/* block decodes one block to `to`, whose matches may reach back to `first`, and returns where it ended; 0: corrupt. */
static uchar *block(const uchar *in, const uchar *end, const uchar *first, uchar *to, const uchar *limit)
{
	while (in < end) {
		unsigned token = *in++, back;
		unsigned long n = token >> 4;
		if (n == 15 && !more(&in, end, &n))
			return 0;
		if (n > (unsigned long)(end - in) || n > (unsigned long)(limit - to))
			return 0;
		while (n--)
			*to++ = *in++;
		if (in == end) /* the last sequence has literals only */
			return to;
		if (end - in < 2)
			return 0;
		back = in[0] | (unsigned)in[1] << 8;
		in += 2;
		n = token & 15;
		if (n == 15 && !more(&in, end, &n))
			return 0;
		n += 4;
		if (!back || back > (unsigned long)(to - first) || n > (unsigned long)(limit - to))
			return 0;
		for (; n; n--, to++)
			*to = to[-(long)back];
	}
	return 0;
}

enum { LZ4_INDEPENDENT = 0x20, LZ4_BLOCK_SUM = 0x10, LZ4_SIZE = 8, LZ4_SUM = 4, LZ4_DICTIONARY = 1 }; /* flags of a frame */

/* lz4 decodes the frame in in..in+n to out, which has room for `room` bytes, and returns how many it became; -1: the frame
 * is cut off, damaged, not LZ4 or too large. */
static long lz4(const uchar *in, unsigned long n, uchar *out, unsigned long room)
{
	const uchar *end = in + n;
	enum { HEAD = 4 + 2 + 8 + 1 }; /* magic, flags, content size, checksum */
	if (n < HEAD || le32(in) != 0x184D2204)
		return -1;
	unsigned flags = in[4], size = le32(in + 6);
	if (flags >> 6 != 1 || !(flags & LZ4_SIZE) || flags & LZ4_DICTIONARY || le32(in + 10) || size > room)
		return -1;
	if ((xxh32(in + 4, 10) >> 8 & 255) != in[14])
		return -1;
	uchar *to = out;
	const uchar *limit = out + size;
	for (in += HEAD;;) {
		if (end - in < 4)
			return -1;
		unsigned length = le32(in) & 0x7fffffff, plain = le32(in) >> 31;
		in += 4;
		if (!length)
			break;
		if (length > (unsigned long)(end - in))
			return -1;
		if (plain) {
			if (length > (unsigned long)(limit - to))
				return -1;
			for (unsigned i = 0; i < length; i++)
				*to++ = in[i];
		} else if (!(to = block(in, in + length, out, to, limit))) {
			return -1;
		}
		in += length;
		if (flags & LZ4_BLOCK_SUM) {
			if (end - in < 4)
				return -1;
			in += 4;
		}
	}
	if (to != limit)
		return -1;
	if (flags & LZ4_SUM && (end - in < 4 || le32(in) != xxh32(out, size)))
		return -1;
	return size;
}

#endif
