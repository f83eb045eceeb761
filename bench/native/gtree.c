/*
 * The tree that an IOMMU written in C keeps: a GLib GTree of separately allocated ranges, ordered so that ranges which
 * overlap compare as equal. Batches are asked for by name, one line each; the answer is "NANOSECONDS CHECK".
 *
 * Usage: gtree PAGES FRAMES. Page p maps to frame hash(p) % FRAMES, as in the bench's guest.
 */
#include <glib.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Enough to leave the caches; a batch of all pages would take seconds. */
#define RANDOM_FINDS 65536u

struct range {
    uint64_t first;
    uint64_t last;
    uint64_t target;
    int access;
};

static GTree *tree;
static uint32_t pages;
static uint32_t frames;
static uint32_t *scattered;

static gint by_place(gconstpointer a, gconstpointer b, gpointer unused)
{
    const struct range *left = a;
    const struct range *right = b;

    (void)unused;
    if (left->last < right->first) {
        return -1;
    }
    return left->first > right->last ? 1 : 0;
}

static uint64_t now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static void insert(uint32_t page)
{
    struct range *range = g_new0(struct range, 1);

    range->first = (uint64_t)page << 12;
    range->last = range->first + 4095;
    range->target = (page * 0x9e3779b1u) % frames;
    range->access = 3;
    g_tree_insert(tree, range, range);
}

static uint64_t find(uint32_t page)
{
    struct range key = { .first = (uint64_t)page << 12, .last = ((uint64_t)page << 12) + 4095 };
    const struct range *found = g_tree_lookup(tree, &key);

    return found ? found->target : 0;
}

static void removed(uint32_t page)
{
    struct range key = { .first = (uint64_t)page << 12, .last = ((uint64_t)page << 12) + 4095 };

    g_tree_remove(tree, &key);
}

static void empty(void)
{
    if (tree) {
        g_tree_destroy(tree);
    }
    tree = g_tree_new_full(by_place, NULL, g_free, NULL);
}

static void fill(void)
{
    empty();
    for (uint32_t page = 0; page < pages; page++) {
        insert(page);
    }
}

/* The same order as shuffled() in guest.ts. */
static void scatter(void)
{
    uint32_t state = 12345;

    scattered = g_new(uint32_t, pages);
    for (uint32_t i = 0; i < pages; i++) {
        scattered[i] = i;
    }
    for (uint32_t i = pages - 1; i > 0; i--) {
        uint32_t j, kept;

        state = (state * 1103515245u + 12345u) & 0x7fffffff;
        j = state % (i + 1);
        kept = scattered[i];
        scattered[i] = scattered[j];
        scattered[j] = kept;
    }
}

static uint64_t batch(const char *name, uint64_t *nanoseconds)
{
    uint64_t sum = 0;
    uint64_t start;

    if (!strncmp(name, "insert", 6)) {
        empty();
    }
    start = now();
    if (!strcmp(name, "find sequential")) {
        for (uint32_t i = 0; i < pages; i++) {
            sum += find(i);
        }
    } else if (!strcmp(name, "find random")) {
        for (uint32_t i = 0; i < pages && i < RANDOM_FINDS; i++) {
            sum += find(scattered[i]);
        }
    } else if (!strcmp(name, "insert sequential")) {
        for (uint32_t i = 0; i < pages; i++) {
            insert(i);
        }
    } else if (!strcmp(name, "remove sequential")) {
        for (uint32_t i = 0; i < pages; i++) {
            removed(i);
        }
    } else {
        fprintf(stderr, "no batch %s\n", name);
        exit(1);
    }
    *nanoseconds = now() - start;
    if (!strncmp(name, "insert", 6)) {
        sum = (uint64_t)g_tree_nnodes(tree);
    }
    if (!strncmp(name, "remove", 6)) {
        sum = (uint64_t)g_tree_nnodes(tree);
        fill();
    }
    return sum;
}

int main(int argc, char **argv)
{
    char name[64];

    if (argc != 3) {
        fprintf(stderr, "usage: gtree PAGES FRAMES\n");
        return 1;
    }
    pages = (uint32_t)strtoul(argv[1], NULL, 10);
    frames = (uint32_t)strtoul(argv[2], NULL, 10);
    scatter();
    fill();
    while (fgets(name, sizeof(name), stdin)) {
        uint64_t nanoseconds;
        uint64_t check;

        name[strcspn(name, "\n")] = 0;
        check = batch(name, &nanoseconds);
        printf("%" PRIu64 " %" PRIu64 "\n", nanoseconds, check);
        fflush(stdout);
    }
    return 0;
}
