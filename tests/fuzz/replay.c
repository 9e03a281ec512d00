/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Runs a fuzz target over files and directories of inputs: replay PATH... An input that takes over a second, or a
 * process over 256 MiB, is a failure, as is an empty corpus.
 */
#include "fuzz.h"
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define SECONDS_MAX 1
#define MEMORY_MAX_KIB (256 * 1024)
#define INPUT_MAX (1 << 20)

static unsigned replayed;

static void replay_file(const char *path)
{
    FILE *file = fopen(path, "rb");
    uint8_t *data = malloc(INPUT_MAX);
    if (!file || !data) {
        perror(path);
        exit(1);
    }
    size_t size = fread(data, 1, INPUT_MAX, file);
    fclose(file);
    /* An exact copy, so that a sanitizer sees a read behind the end. */
    uint8_t *exact = malloc(size ? size : 1);
    if (!exact)
        exit(1);
    memcpy(exact, data, size);
    fprintf(stderr, "%s\n", path);
    alarm(SECONDS_MAX + 1);
    LLVMFuzzerTestOneInput(exact, size);
    alarm(0);
    free(exact);
    free(data);
    replayed++;
}

static void replay(const char *path)
{
    struct stat st;
    if (stat(path, &st)) {
        perror(path);
        exit(1);
    }
    if (!S_ISDIR(st.st_mode)) {
        replay_file(path);
        return;
    }
    struct dirent **names;
    int count = scandir(path, &names, NULL, alphasort);
    for (int i = 0; i < count; i++) {
        char child[4096];
        if (names[i]->d_name[0] != '.') {
            snprintf(child, sizeof(child), "%s/%s", path, names[i]->d_name);
            replay(child);
        }
        free(names[i]);
    }
    if (count >= 0)
        free(names);
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        replay(argv[i]);
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    printf("%u inputs, %ld KiB\n", replayed, usage.ru_maxrss);
#ifndef __SANITIZE_ADDRESS__
    if (usage.ru_maxrss > MEMORY_MAX_KIB) {
        fprintf(stderr, "over %d KiB\n", MEMORY_MAX_KIB);
        return 1;
    }
#endif
    return replayed ? 0 : 1;
}
