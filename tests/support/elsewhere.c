/* Loaded into each process of a suite (LD_PRELOAD): one that is to become an actor goes to the other one of two networks before
   anything of its own runs, and so is on another host than its parent. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static void fail(const char *what)
{
	perror(what);
	_exit(126);
}

__attribute__((constructor)) static void go_elsewhere(void)
{
	const char *one = getenv("TEAMSTER_TEST_NETWORK_A"), *other = getenv("TEAMSTER_TEST_NETWORK_B");
	struct stat here, there;
	int fd;

	if (!getenv("TEAMSTER_BOOT") || !one || !other)
		return;
	if (stat("/proc/self/ns/net", &here) || stat(one, &there))
		fail(one);
	fd = open(here.st_ino == there.st_ino ? other : one, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || setns(fd, CLONE_NEWNET))
		fail("setns");
	close(fd);
}
