// Loops of a Team (cpu/runtime/team.h): every task is done once, by any number of threads, with gaps
// in which they sleep, and with tasks that throw.
#include "cpu/runtime/team.h"

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <thread>
#include <vector>

namespace {

using transnext::index_t;
using transnext::cpu::Job;
using transnext::cpu::Team;

struct Tasks {
  std::vector<std::atomic<int>> done;
  index_t throws;

  static void run(void* context, index_t task) {
    auto& tasks = *static_cast<Tasks*>(context);
    tasks.done[static_cast<std::size_t>(task)].fetch_add(1);
    if (task == tasks.throws) throw std::runtime_error("a task");
  }
};

void require(bool holds, const char* what) {
  if (holds) return;
  std::printf("FAILED: %s\n", what);
  std::exit(1);
}

void check_loop(Team& team, index_t count, int threads, bool throws) {
  Tasks tasks{std::vector<std::atomic<int>>(static_cast<std::size_t>(count)),
              throws ? count / 2 : -1};
  Job job(count, count < threads ? count : threads, Tasks::run, &tasks);
  team.run(job);
  bool thrown = false;
  try {
    job.rethrow();
  } catch (const std::runtime_error&) {
    thrown = true;
  }
  require(thrown == throws, "what a task throws comes to the caller");
  for (const auto& done : tasks.done)
    require(throws ? done.load() <= 1 : done.load() == 1, "each task is done once");
}

void check_team(int threads, int loops) {
  Team team;
  std::vector<std::thread> others;
  for (int number = 1; number < threads; ++number)
    others.emplace_back([&team, number] { team.serve(number); });
  for (int loop = 0; loop < loops; ++loop) {
    check_loop(team, 1 + loop * 7 % 50, threads, loop % 17 == 16);
    if (loop % 100 == 99) std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  team.dismiss();
  for (std::thread& other : others) other.join();
}

}  // namespace

int main() {
  for (const int threads : {1, 2, 3, 8}) check_team(threads, 3000);
  for (int team = 0; team < 200; ++team) check_team(3, team % 3);  // dismissed at once
  std::printf("all loops ran\n");
  return 0;
}
