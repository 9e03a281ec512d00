/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Arguments of weir img that several subcommands take.
 */
#include "tools/img.h"

#include "base/schema_text.h"
#include <ctype.h>
#include <stdio.h>
#include <string.h>

int img_getopt(struct img *img, int argc, char **argv, const char *shorts, const struct option *longs)
{
    int c = getopt_long(argc, argv, shorts, longs, NULL);

    if (c == ':') {
        img_usage(img, "missing argument for option '%s'", argv[optind - 1]);
        return '?';
    }
    if (c == '?')
        img_usage(img, "unrecognized option '%s'", argv[optind - 1]);
    if (c == 'h')
        img_help(img);
    return c;
}

/* A number with a suffix that no 64 bits hold. */
static bool too_large(const char *text)
{
    static const char suffixes[] = "bKMGTPE";
    char *end;
    double value;
    const char *suffix;

    if (!isdigit((unsigned char)*text))
        return false;
    value = strtod(text, &end);
    suffix = *end ? strchr(suffixes, *end == 'b' ? 'b' : toupper((unsigned char)*end)) : suffixes;
    if (!suffix || (*end && end[1]))
        return false;
    for (; suffix > suffixes; suffix--)
        value *= 1024;
    return value >= 18446744073709551615.0;
}

bool img_size(const struct img *img, const char *what, const char *text, uint64_t *ret_size)
{
    uint64_t size = 0;
    bool known = weir_text_to_size(text, &size);

    if (known && size <= INT64_MAX) {
        *ret_size = size;
        return true;
    }
    if (known || too_large(text)) {
        img_complain(img, "Invalid %s specified. Must be between 0 and %" PRId64 ".", what, INT64_MAX);
        return false;
    }
    img_complain(img, "Invalid %s specified. You may use k, M, G, T, P or E suffixes for", what);
    img_complain(img, "kilobytes, megabytes, gigabytes, terabytes, petabytes and exabytes.");
    return false;
}

bool img_output(const struct img *img, const char *text, bool *ret_json)
{
    if (strcmp(text, "json") != 0 && strcmp(text, "human") != 0) {
        img_complain(img, "--output must be used with human or json as argument.");
        return false;
    }
    *ret_json = !strcmp(text, "json");
    return true;
}

int img_refuse_object(const struct img *img, const char *text)
{
    img_complain(img, "--object %s: no image that this program knows needs an object", text);
    return 1;
}

bool img_cache_parse(const char *text, struct img_cache *ret_cache)
{
    static const struct {
        const char *name;
        struct img_cache cache;
    } modes[] = {
        { "none", { .direct = true } },
        { "off", { .direct = true } },
        { "writeback", { .direct = false } },
        { "writethrough", { .write_through = true } },
        { "directsync", { .direct = true, .write_through = true } },
        { "unsafe", { .no_flush = true } },
    };

    for (unsigned i = 0; i < WEIR_ARRAY_SIZE(modes); i++) {
        if (!strcmp(text, modes[i].name)) {
            *ret_cache = modes[i].cache;
            return true;
        }
    }
    return false;
}

int img_common_option(const struct img *img, int c, struct img_common *common)
{
    switch (c) {
    case 'h':
        return 0;
    case 'f':
        common->how.format = optarg;
        return -1;
    case 'q':
        common->quiet = true;
        return -1;
    case 'p':
        common->progress = true;
        return -1;
    case 'U':
        common->how.force_share = true;
        return -1;
    case IMG_OPT_OUTPUT:
        return img_output(img, optarg, &common->json) ? -1 : 1;
    case IMG_OPT_IMAGE_OPTS:
        common->how.options = true;
        return -1;
    case IMG_OPT_OBJECT:
        return img_refuse_object(img, optarg);
    default:
        return 1;
    }
}

int img_common_check(const struct img *img, bool options, const char *format)
{
    if (!options || !format)
        return -1;
    img_complain(img, "--image-opts and --format are mutually exclusive");
    return 1;
}
